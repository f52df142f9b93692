"""The two differentiable collectives that SimCLR needs; the identity where there is one rank.

Both have the derivative of the sum of all ranks' losses, which DDP's mean over ranks turns into that of the mean.
`Accelerator.gather` has no gradient at all, and a gather that keeps only the local gradient gives the right loss with
half of the right gradient.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

Gather = Callable[[Tensor], Tensor]
"""This rank's rows -> the rows of all ranks, as `all_gather` does it."""


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_gather(x: Tensor) -> Tensor:
    """Concatenate equally shaped tensors of all ranks in order of rank: (n, ...) -> (W·n, ...)."""
    if world_size() == 1:
        return x
    gathered: Tensor = _AllGather.apply(x)
    return gathered


def all_reduce(x: Tensor) -> Tensor:
    """Sum equally shaped tensors of all ranks."""
    if world_size() == 1:
        return x
    summed: Tensor = _AllReduce.apply(x)
    return summed


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: FunctionCtx, x: Tensor) -> Tensor:
        parts = x.new_empty(world_size() * len(x), *x.shape[1:])
        dist.all_gather_single(parts, x.contiguous())
        return parts

    @staticmethod
    def backward(_ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        rows = len(gradient) // world_size()
        return gradient[rank() * rows : (rank() + 1) * rows]


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: FunctionCtx, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(_ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient
