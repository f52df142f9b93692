"""What ranks send each other, as it happens: collectives by what they carry, DDP's from inside C++ among them."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GRADIENT = "gradient of the weights"
_CALLERS = {
    "Ranks.most": "agreement",
    "GlobalBatchNorm.forward": "BatchNorm forward",
    "SyncBatchNorm.forward": "BatchNorm forward",
    "_AllReduce.backward": "BatchNorm backward",
    "SyncBatchNorm.backward": "BatchNorm backward",
    "_AllGather.forward": "projections",
    "_AllGather.backward": "gradient of the projections",
    "Probe.update": "probe",
    "Trainer._broken": "non-finite flag",
    "log_line": "log line",
    "NonFiniteWatch.look_back": "log line",
}
"""What a collective carries, by the outermost of these functions that it was called from; GRADIENT without any, since
DDP's reducer is called by autograd alone."""
_OPERATIONS = {
    "allreduce_": ("all-reduce", 0),
    "allgather_": ("all-gather", 1),
    "_allgather_base_": ("all-gather", 1),
    "reduce_scatter_": ("reduce-scatter", 1),
    "_reduce_scatter_base_": ("reduce-scatter", 1),
    "broadcast_": ("broadcast", 0),
}
"""By c10d's name: ours, and which argument holds what this rank puts in."""


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind in one step, on one rank."""

    calls: int
    bytes: int
    """That this rank puts in, all calls together."""

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.calls + other.calls, self.bytes + other.bytes)


TrafficByKind = dict[tuple[str, str], Traffic]
"""By what is carried, and by which operation."""


class WireWatch(TorchDispatchMode):
    """Counts the collectives of this rank while it is entered; one that it does not know is an error."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.traffic: defaultdict[tuple[str, str], Traffic] = defaultdict(lambda: Traffic(0, 0))

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "c10d":
            operation, place = _OPERATIONS[func._schema.name.removeprefix("c10d::")]
            tensors = [leaf for leaf in tree_leaves(args[place]) if isinstance(leaf, Tensor)]
            self.traffic[_carried(), operation] += Traffic(1, sum(tensor.nbytes for tensor in tensors))
        return func(*args, **(kwargs or {}))


def _carried() -> str:
    frame, carried = sys._getframe(), GRADIENT
    while frame.f_back is not None:
        frame = frame.f_back
        carried = _CALLERS.get(frame.f_code.co_qualname, carried)
    return carried
