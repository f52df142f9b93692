"""What the ranks of a pool are asked to compute. Each sees the global input and works on its own part of it."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.batchnorm import with_global_batchnorm
from model.collectives import all_gather, all_reduce
from model.config import EncoderConfig, HeadConfig
from model.loss import nt_xent
from model.simclr import SimCLR
from pipelines.augment import TwoViews
from pipelines.config import DataConfig, ViewsConfig
from pipelines.loader import Share, training_batches
from pipelines.manifest import open_split
from train.lars import LARS


def rows_of_rank(views: Tensor) -> Tensor:
    """This rank's images out of (2B, ...) views: the same slice of both halves."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    local = len(views) // 2 // world_size
    first, second = views.chunk(2)
    return torch.cat([half[rank * local : (rank + 1) * local] for half in (first, second)])


def sum_of_collectives(x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of a rank-dependent weighting of gathered and reduced values."""
    own = x[dist.get_rank()].clone().requires_grad_()
    weights = torch.arange(1.0, 1 + dist.get_world_size(), dtype=x.dtype) * (1 + dist.get_rank())
    gathered = all_gather(own[None])  # (W, n)
    loss = (gathered * weights[:, None]).sum() + (all_reduce(own) ** 2).sum() * (1 + dist.get_rank())
    (gradient,) = torch.autograd.grad(loss, own)
    return loss.detach(), gradient


def loss_and_gradient(z: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """This rank's loss and its rows of the gradient of the mean over ranks."""
    mine = rows_of_rank(z).requires_grad_()
    loss = nt_xent(mine, temperature)
    (gradient,) = torch.autograd.grad(loss, mine)
    return loss.detach(), gradient / dist.get_world_size()


def batchnorm(module: nn.Module, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output, input gradient and buffers of a converted module on this rank's rows."""
    module = with_global_batchnorm(module, torch.device("cpu"))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    part = x.chunk(world_size)[rank].clone().requires_grad_()
    y = module(part)
    (gradient,) = torch.autograd.grad((y * upstream.chunk(world_size)[rank]).sum(), part)
    return y.detach(), gradient, {name: buffer.clone() for name, buffer in module.named_buffers()}


def train_for(directory: Path, steps: int) -> dict[str, Tensor]:
    """Whole updates in float64, from shards to LARS, of a small network with global BatchNorm."""
    distributed = dist.is_initialized()
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    torch.manual_seed(0)
    model: Any = SimCLR(EncoderConfig(name="resnet18", stem="cifar", width=0.0625), HeadConfig(dim=8)).double()
    with_global_batchnorm(model, torch.device("cpu"))
    optimizer = LARS(model.parameters(), lr=0.0, weight_decay=1e-4)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if distributed else model
    views = ViewsConfig(size=32, blur_probability=0.0)
    share = Share(global_batch=16, seed=0, rank=rank, world_size=world_size, last_step=steps)
    batches = training_batches(open_split(directory, "train"), DataConfig(canvas=32), views, share, torch.device("cpu"))
    for batch in batches:
        optimizer.param_groups[0]["lr"] = 1.0 + batch.step
        z = wrapped(TwoViews(views)(batch.canvas, batch.plan).double())
        nt_xent(z, 0.5).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
