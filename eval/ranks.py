"""The processes of an evaluation: how work and its results are shared among them.

Every rank evaluates a contiguous part of a split. What was learnt from the parts is summed or put together in order, so
that any number of ranks answers what one would.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from eval.errors import EvaluationError
from model.collectives import all_reduce, rank, world_size
from train.distributed import environment_world_size, ranks_on_node

if TYPE_CHECKING:
    from accelerate import Accelerator

Answer = TypeVar("Answer")
_TIMEOUT = timedelta(hours=2)
"""Longest wait for another rank: rank 0 alone reads cached features and writes results."""


def join_ranks(device: str, cpu_threads: int = 0) -> "Accelerator":
    """Meet the other ranks, where a launcher started several.

    Args:
        device: auto, cpu or cuda.
        cpu_threads: of each rank; 0 shares the cores among the ranks of a node.

    Raises:
        EvaluationError: CUDA was asked for and is not there, or fewer ranks joined than were started.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    if device == "cuda" and not torch.cuda.is_available():
        raise EvaluationError("device = cuda: torch finds no CUDA device here; use auto or cpu")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    threads = cpu_threads or max(1, len(os.sched_getaffinity(0)) // ranks_on_node())
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # or Accelerate takes a number of its own, and says so
    started = environment_world_size()
    if started > 1 and not dist.is_initialized():
        # Both, because features and predictions are gathered on the host.
        dist.init_process_group("gloo" if on_cpu else "cpu:gloo,cuda:nccl", timeout=_TIMEOUT)
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[ddp])
    if on_cpu:
        torch.set_num_threads(threads)
    if accelerator.num_processes != started:
        raise EvaluationError(
            f"the launcher started {started} processes but {accelerator.num_processes} joined the group"
        )
    return accelerator


def leave_ranks() -> None:
    """Part from the other ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass(frozen=True)
class Part:
    """A contiguous part of `total` rows: what one rank has of them."""

    first: int
    last: int
    """The row after the last one."""
    total: int

    @property
    def rows(self) -> slice:
        """Of the whole."""
        return slice(self.first, self.last)

    def __len__(self) -> int:
        return self.last - self.first


def part_of(total: int, of_rank: int | None = None) -> Part:
    """What this rank, or another, has of so many rows: as equal as can be, in order of rank."""
    number = rank() if of_rank is None else of_rank
    return Part(first=total * number // world_size(), last=total * (number + 1) // world_size(), total=total)


def gather_rows(local: Tensor) -> Tensor:
    """Put together what the ranks have, in order of rank: (n, ...) on the host -> (sum of n, ...) on every rank's host.

    Sizes may differ.
    """
    if world_size() == 1:
        return local
    sizes = torch.zeros(world_size(), dtype=torch.int64)
    sizes[rank()] = len(local)
    dist.all_reduce(sizes)
    longest = int(sizes.max())
    padded = local.new_zeros(longest, *local.shape[1:])
    padded[: len(local)] = local
    gathered = local.new_empty(world_size() * longest, *local.shape[1:])
    dist.all_gather_single(gathered, padded)
    parts = [part[:size] for part, size in zip(gathered.split(longest), sizes.tolist(), strict=True)]
    return torch.cat(parts)


def total(x: Tensor) -> Tensor:
    """Sum over ranks of equally shaped tensors, without gradient; on the host or a device."""
    return all_reduce(x.detach())


def from_rank_0(function: Callable[[], Answer]) -> Answer:
    """Call it on rank 0 and give its answer, or what it raised, to all."""
    if world_size() == 1:
        return function()
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = function()
        except Exception as error:  # noqa: BLE001  # raised on every rank, below
            answer[1] = error
    dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    whole: Answer = answer[0]
    return whole
