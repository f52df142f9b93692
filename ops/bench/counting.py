"""What a function asks of torch and of memory, whatever the machine's speed: operators, bytes moved, bytes held."""

import json
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ONLY_ALLOCATE = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
_ONLY_WRITE = ("copy_", "fill_", "zero_")  # do not read what they change


@dataclass(kw_only=True)
class Work:
    """What was asked of torch while a part was under way."""

    operators: Counter[str] = field(default_factory=Counter)
    """How often each was dispatched, views among them."""
    bytes_moved: int = 0
    """As in `bytes_moved`."""
    held_bytes: int = 0
    """Most bytes alive at once of what operators have made since the watch began, in earlier parts too."""

    @property
    def dispatches(self) -> int:
        """Of all operators."""
        return self.operators.total()


class Watch(TorchDispatchMode):
    """Counts while it is entered, each part for itself.

    Operators are counted where they leave autograd for a device, and so those that torch composes of others, such as
    linear, as what they are composed of; which kernel or oneDNN primitive computes one is not seen, nor its scratch
    memory. What a compiler fused is not seen either.
    """

    def __init__(self, part: Callable[[], str] = lambda: "") -> None:
        """Begin with nothing.

        Args:
            part: names the part that is under way.
        """
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.work: defaultdict[str, Work] = defaultdict(Work)
        self._part = part
        self._alive: set[int] = set()
        self._held_bytes = 0

    @property
    def total(self) -> Work:
        """Of all parts."""
        total = Work()
        for work in self.work.values():
            total.operators += work.operators
            total.bytes_moved += work.bytes_moved
            total.held_bytes = max(total.held_bytes, work.held_bytes)
        return total

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.namespace == "profiler":  # marks that an optimizer leaves for torch's profiler
            return result
        outputs = _tensors(result)
        work = self.work[self._part()]
        work.operators[str(func).removeprefix("aten.")] += 1
        work.bytes_moved += _bytes_moved(func, args, kwargs, outputs)
        self._hold(outputs, _tensors((args, kwargs)))
        work.held_bytes = max(work.held_bytes, self._held_bytes)
        return result

    def _hold(self, outputs: list[Tensor], inputs: list[Tensor]) -> None:
        """Until torch frees it, what an operator made counts as alive; what it was given is not of its making."""
        known = {tensor.untyped_storage()._cdata for tensor in inputs}
        for tensor in outputs:
            storage = tensor.untyped_storage()
            address, size = storage._cdata, storage.nbytes()
            if address not in known and address not in self._alive:
                self._alive.add(address)
                self._held_bytes += size
                weakref.finalize(storage, self._let_go, address, size).atexit = False

    def _let_go(self, address: int, size: int) -> None:
        self._alive.remove(address)
        self._held_bytes -= size


def dispatches(function: Callable[[], object]) -> int:
    """Operators that torch dispatches in one call, views among them. What a compiler fused is not seen."""
    watch = Watch()
    with watch:
        function()
    return watch.total.dispatches


def bytes_moved(function: Callable[[], object]) -> int:
    """Bytes that the operators of one call read and write, if each reads its inputs and writes its outputs once.

    Views move nothing. An input that is expanded counts as often as it lies in memory. One that is gathered from counts
    as a whole. What a compiler fused is not seen, nor are temporaries inside an operator.
    """
    watch = Watch()
    with watch:
        function()
    return watch.total.bytes_moved


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
