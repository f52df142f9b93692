"""One update of all of an encoder's weights by LARS, by us and by others: as generators, and counted once.

Only torch is imported here: a peer's Python need not have what ours has.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_SYNCHRONISING = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal")


def updates(kind: str, shapes: Sequence[Sequence[int]]) -> Iterator[int]:
    """1 for each update made, again and again."""
    torch.set_num_threads(1)
    optimizer = made(kind, shapes)
    while True:
        optimizer.step()
        yield 1


def counted(kind: str, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """Operators dispatched, bytes that they move, and those that wait for a device, in one update after a first."""
    from ops.bench.counting import bytes_moved, dispatches

    torch.set_num_threads(1)
    optimizer = made(kind, shapes)
    optimizer.step()
    watched = _Waiting()
    with watched:
        optimizer.step()
    return {
        "dispatches": dispatches(optimizer.step),
        "bytes_moved": bytes_moved(optimizer.step),
        "host_syncs": watched.count,
    }


def made(kind: str, shapes: Sequence[Sequence[int]]) -> Any:
    """An optimizer over weights that decay and are adapted, and others that are not, all with gradients."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(*shape, generator=generator)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": 1e-6}, {"params": others, "weight_decay": 0.0}]
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=1e-4, momentum=0.9, foreach=True)
    if kind == "timm":
        return import_module("timm.optim").Lars(groups, lr=1e-4, momentum=0.9)
    if kind == "lightly":
        return import_module("lightly.utils.lars").LARS(groups, lr=1e-4, momentum=0.9)
    groups[1]["adapt"] = False
    return import_module("train.lars").LARS(groups, lr=1e-4, momentum=0.9, flat=kind == "flat")


class _Waiting(TorchDispatchMode):
    """Counts operators that would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Tensor | Any:
        self.count += any(name in func._schema.name for name in _SYNCHRONISING)
        return func(*args, **(kwargs or {}))
