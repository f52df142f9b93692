"""What a function asks of torch and of memory, whatever the machine's speed: operators, bytes moved, bytes held."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ONLY_ALLOCATE = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
_ONLY_WRITE = ("copy_", "fill_", "zero_")  # do not read what they change


def dispatches(function: Callable[[], object]) -> int:
    """Operators that torch dispatches in one call, views among them. What a compiler fused is not seen."""
    watched = _Watched()
    with watched:
        function()
    return watched.dispatches


def bytes_moved(function: Callable[[], object]) -> int:
    """Bytes that the operators of one call read and write, if each reads its inputs and writes its outputs once.

    Views move nothing. An input that is expanded counts as often as it lies in memory. One that is gathered from counts
    as a whole. What a compiler fused is not seen, nor are temporaries inside an operator.
    """
    watched = _Watched()
    with watched:
        function()
    return watched.bytes_moved


def peak_bytes(function: Callable[[], object]) -> int:
    """Most bytes that are allocated at once in one call, beyond those that were before; what it returns is among them.

    The profiler is told by torch's allocator, and so compiled code and temporaries inside operators are seen. Memory
    that others allocate (NumPy, oneDNN's scratch space) is not. Call the function before, so that compiling and caches
    are done with.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        kept = function()
    del kept
    with TemporaryDirectory() as directory:
        path = Path(directory) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_bytes())["traceEvents"]
    held = highest = 0
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        highest = max(highest, held)
    return highest


class _Watched(TorchDispatchMode):
    """Counts while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.dispatches, self.bytes_moved = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.dispatches += 1
        self.bytes_moved += _bytes_moved(func, args, kwargs, _tensors(result))
        return result


def _bytes_moved(func: Any, args: Sequence[Any], kwargs: dict[str, Any], outputs: list[Tensor]) -> int:
    arguments = func._schema.arguments
    name = func._schema.name.removeprefix("aten::")
    given = [*zip(arguments, args, strict=False), *((one, kwargs[one.name]) for one in arguments if one.name in kwargs)]
    inputs = _tensors([value for _, value in given])
    writes = any(one.alias_info is not None and one.alias_info.is_write for one in arguments)
    storages = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    is_view = not writes and all(output.untyped_storage().data_ptr() in storages for output in outputs)
    if name in _ONLY_ALLOCATE or (outputs and inputs and is_view):
        return 0
    read = [value for one, value in given if not (one.is_out or (name in _ONLY_WRITE and one.name == "self"))]
    return sum(_stored_bytes(tensor) for tensor in (*_tensors(read), *outputs))


def _stored_bytes(tensor: Tensor) -> int:
    """Of the different elements of a tensor: expanded dimensions are stored once, overlapping windows likewise."""
    if not tensor.numel():
        return 0
    different, extent = 1, 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        different *= length if stride else 1
        extent += (length - 1) * stride
    return min(different, extent) * tensor.element_size()


def _tensors(values: object) -> list[Tensor]:
    leaves: Iterable[Any] = tree_leaves(values)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
