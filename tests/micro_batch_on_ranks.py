"""Updates of a small network without BatchNorm, whole and in micro-batches, alone and on the ranks of a pool."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from rank_functions import rows_of_rank
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.config import LossConfig
from model.loss import contrastive_loss
from train.micro_batch import backward_in_micro_batches

LOSS = LossConfig(temperature=0.2)


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.GroupNorm(2, 16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 6))

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(views)
        return self.head(h), h.detach()


def small_network(dtype: torch.dtype) -> nn.Module:
    """With the same weights each time."""
    torch.manual_seed(0)
    return _Network().to(dtype)


def gradients_of_the_whole(network: nn.Module, views: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients by one forward and backward."""
    z, _ = network(views)
    loss = contrastive_loss(LOSS, z)
    return loss.detach(), list(torch.autograd.grad(loss, list(network.parameters())))


def gradients_in_micro_batches(
    network: nn.Module, views: Tensor, micro_batch: int, scale: float = 1.0
) -> tuple[Tensor, list[Tensor], int]:
    """Loss, gradients, and how often the network was told to reduce them."""
    reductions = 0

    def no_sync(module: nn.Module) -> Any:
        nonlocal reductions
        reductions -= 1
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def backward(loss: Tensor) -> None:
        loss.backward()

    accelerator: Any = SimpleNamespace(backward=backward, no_sync=no_sync)
    network.zero_grad()
    loss, z, _ = backward_in_micro_batches(
        accelerator, network, views, micro_batch, partial(contrastive_loss, LOSS), scale, nullcontext
    )
    reductions += -(-len(z) // 2 // micro_batch)  # second passes
    return loss, [p.grad.clone() for p in network.parameters() if p.grad is not None], reductions


def gradients_of_a_rank(views: Tensor, micro_batch: int) -> tuple[Tensor, list[Tensor], int]:
    """The same on this rank's images, reduced by DDP."""
    assert dist.is_initialized()
    network = DistributedDataParallel(small_network(torch.float64), broadcast_buffers=False)
    return gradients_in_micro_batches(network, rows_of_rank(views), micro_batch)
