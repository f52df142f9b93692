"""BatchNorm's running statistics: held still, put back, averaged; nothing here waits for the device."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.collectives import world_size


@contextmanager
def frozen_statistics(model: nn.Module) -> Generator[None, None, None]:
    """BatchNorm in training mode normalises by its batch, as ever, but its running statistics do not move."""
    tracking = [module for module in _batchnorms(model) if module.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


@dataclass(frozen=True)
class Snapshot:
    """Running statistics at one moment, one flat tensor per type."""

    flat: tuple[Tensor, ...]


class RunningStatistics:
    """Of all BatchNorms of a model; does nothing where there are none."""

    def __init__(self, model: nn.Module) -> None:
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for module in _batchnorms(model):
            for buffer in (module.running_mean, module.running_var, module.num_batches_tracked):
                if buffer is not None:
                    by_type.setdefault(buffer.dtype, []).append(buffer)
        self._buffers = list(by_type.values())

    def copy(self) -> Snapshot:
        """Take them as they are."""
        return Snapshot(tuple(torch.cat([buffer.flatten() for buffer in buffers]) for buffers in self._buffers))

    def restore(self, snapshot: Snapshot) -> None:
        """Put them back as they were."""
        for buffers, flat in zip(self._buffers, snapshot.flat, strict=True):
            _write(buffers, flat)

    def restore_if(self, flag: Tensor, snapshot: Snapshot) -> None:
        """Put them back where the flag, a scalar on the device, is above 0; what is not finite now does no harm."""
        for buffers, flat, now in zip(self._buffers, snapshot.flat, self.copy().flat, strict=True):
            _write(buffers, torch.where(flag > 0, flat, now))

    @contextmanager
    def kept(self) -> Generator[None, None, None]:
        """They are afterwards what they were before."""
        before = self.copy()
        try:
            yield
        finally:
            self.restore(before)


@torch.no_grad()
def average_running_statistics(model: nn.Module) -> None:
    """Make running means and variances the mean over ranks, where each rank's BatchNorm saw only its own batch."""
    if world_size() == 1:
        return
    buffers = [
        buffer
        for module in _batchnorms(model)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
    if buffers:
        flat = torch.cat(buffers)
        dist.all_reduce(flat)
        _write(buffers, flat / world_size())


def _batchnorms(model: nn.Module) -> Iterator[_BatchNorm]:
    return (module for module in model.modules() if isinstance(module, _BatchNorm))


def _write(buffers: list[Tensor], flat: Tensor) -> None:
    pieces = flat.split([buffer.numel() for buffer in buffers])
    torch._foreach_copy_(buffers, [piece.view_as(buffer) for piece, buffer in zip(pieces, buffers, strict=True)])
