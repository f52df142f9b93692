"""BatchNorm over ranks: what the ranks of a pool compute of their parts of a global batch."""

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.batchnorm import with_global_batchnorm
from model.compiled import graph_breaks
from model.running_statistics import average_running_statistics

CPU = torch.device("cpu")


def part_of(x: Tensor) -> Tensor:
    """This rank's rows."""
    return x.chunk(dist.get_world_size())[dist.get_rank()]


def output_and_gradient(
    module: nn.Module, x: Tensor, upstream: Tensor, steps: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output, input gradient and buffers of a converted module on this rank's rows, after several forwards."""
    module = with_global_batchnorm(module, CPU)
    part = part_of(x).clone().requires_grad_()
    for _ in range(steps):
        y = module(part)
    (gradient,) = torch.autograd.grad((y * part_of(upstream)).sum(), part)
    return y.detach(), gradient, {name: buffer.clone() for name, buffer in module.named_buffers()}


def evaluated_without_statistics(x: Tensor) -> Tensor:
    """Output in eval mode, where there are no running statistics, on this rank's rows."""
    plain = nn.Sequential(nn.BatchNorm1d(x.shape[1], affine=False, track_running_stats=False))
    y: Tensor = with_global_batchnorm(plain, CPU).eval()(part_of(x))
    return y


def compiled_and_not(module: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor], int]:
    """Output, gradients and running statistics of a converted module, eager and compiled; and the graph breaks."""
    results = []
    before = graph_breaks()
    for compiled in (False, True):
        torch.compiler.reset()
        mine: Any = with_global_batchnorm(copy.deepcopy(module), CPU)
        if compiled:
            mine.compile(backend="aot_eager", dynamic=False)
        y = mine(part_of(x))
        y.square().sum().backward()
        results.append(
            [y.detach(), *(p.grad for p in mine.parameters()), *(buffer.clone() for buffer in mine.buffers())]
        )
    return results[0], results[1], graph_breaks() - before


def averaged_statistics(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Running statistics of a BatchNorm that saw this rank's rows only, then averaged."""
    module = nn.BatchNorm1d(x.shape[1]).double()
    module(part_of(x))
    average_running_statistics(module)
    assert module.running_mean is not None
    assert module.running_var is not None
    assert module.num_batches_tracked is not None
    return module.running_mean, module.running_var, int(module.num_batches_tracked)
