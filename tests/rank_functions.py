"""What the ranks of a pool are asked to compute. Each sees the global input and works on its own part of it."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from model.batchnorm import with_global_batchnorm
from model.collectives import all_gather, all_reduce
from model.config import EncoderConfig, HeadConfig, LossConfig
from model.loss import _by_rows, contrastive_loss, nt_xent
from model.projections import unit_rows
from model.simclr import SimCLR
from pipelines.augment import TwoViews
from pipelines.config import DataConfig, ViewsConfig
from pipelines.loader import Share, training_batches
from pipelines.manifest import open_split
from train.lars import LARS
from train.micro_batch import backward_in_micro_batches


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


def loss_and_gradient(
    z: Tensor, temperature: float, chunk: int | None, *, decoupled: bool = False
) -> tuple[Tensor, Tensor]:
    """This rank's loss and its rows of the gradient of the mean over ranks; with the chunk of a device, or this one."""
    mine = rows_of_rank(z).requires_grad_()
    if chunk is None:
        loss = nt_xent(mine, temperature, decoupled=decoupled)
    else:
        rows = unit_rows(mine)
        loss = _by_rows(rows, all_gather(rows), temperature, chunk, decoupled=decoupled)
    (gradient,) = torch.autograd.grad(loss, mine)
    return loss.detach(), gradient / dist.get_world_size()


def study_loss_and_gradient(config: LossConfig, z: Tensor) -> tuple[Tensor, Tensor]:
    """The same of any loss."""
    mine = rows_of_rank(z).requires_grad_()
    loss = contrastive_loss(config, mine)
    (gradient,) = torch.autograd.grad(loss, mine)
    return loss.detach(), gradient / dist.get_world_size()


def train_for(directory: Path, steps: int, norm: Literal["batch", "group"], micro_batch: int) -> dict[str, Tensor]:
    """Whole updates in float64, from shards to LARS under a changing rate; in micro-batches if they are not 0.

    With norm = group nothing is BatchNorm; with batch all of it is global.
    """
    distributed = dist.is_initialized()
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    torch.manual_seed(0)
    encoder = EncoderConfig(name="resnet18", stem="cifar", width=0.0625, norm=norm)
    model: Any = SimCLR(encoder, HeadConfig(dim=8, batchnorm=norm == "batch"), 32).double()
    with_global_batchnorm(model, torch.device("cpu"))
    optimizer = LARS(model.parameters(), lr=0.0, weight_decay=1e-4)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if distributed else model
    views = ViewsConfig(size=32, blur_probability=0.0)
    share = Share(global_batch=16, seed=0, rank=rank, world_size=world_size, last_step=steps)
    batches = training_batches(open_split(directory, "train"), DataConfig(canvas=32), views, share, torch.device("cpu"))
    accelerator: Any = SimpleNamespace(backward=Tensor.backward, no_sync=lambda module: module.no_sync())
    if not distributed:
        accelerator.no_sync = lambda _: nullcontext()
    loss_of = partial(nt_xent, temperature=0.5)
    for batch in batches:
        optimizer.param_groups[0]["lr"] = 1.0 + batch.step
        both = TwoViews(views)(batch.canvas, batch.plan).double()
        if micro_batch:
            backward_in_micro_batches(accelerator, wrapped, both, micro_batch, loss_of, 1.0, nullcontext)
        else:
            loss_of(wrapped(both)[0]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
