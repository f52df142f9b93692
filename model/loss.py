"""NT-Xent over the global batch, exact in value and gradient for any number of ranks, in memory linear in the batch.

The matrix of similarities, (2N)^2, is never held. Both ways below go through it in pieces that fit a cache, keep the
sum of exponentials of each row, and have their backward written out:

    dL/dz = 1 / (2N tau) * (P z + P^T z - 2 z_positive),   P = softmax over each row of z z^T / tau without itself

Decoupled (Yeh et al. 2022), P leaves out the positive as well.

Row by row serves every case. On one rank the matrix is symmetric, so a tile serves its rows and its columns, for half
the work: that is faster on CPUs, where a tile stays in cache, and slower on GPUs, which want large products.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.collectives import Gather, all_gather, rank, world_size
from model.config import LossConfig
from model.precision import full_float32
from model.projections import at_least_float32, unit_rows
from model.study_losses import margin_triplet, nt_logistic

_TILE = 1024
"""Rows and columns of a tile: 4 MiB of float32, in a CPU's cache."""
_CHUNK_BYTES = {"cpu": 2**25, "cuda": 2**28}
"""Of similarities held at once, row by row."""
_MOST_NEGATIVE_EXPONENT = {torch.float32: -80.0, torch.float64: -700.0}
"""exp of it is still a normal number."""


def contrastive_loss(config: LossConfig, z: Tensor, gather: Gather = all_gather) -> Tensor:
    """The loss that the configuration names, of (2B, D) projections as in `nt_xent`; unscaled."""
    if config.name == "nt_xent":
        return nt_xent(
            z, config.temperature, l2_normalise=config.l2_normalise, decoupled=config.decoupled, gather=gather
        )
    if config.name == "nt_logistic":
        return nt_logistic(config, z, gather)
    return margin_triplet(config, z, gather)


def nt_xent(
    z: Tensor,
    temperature: float,
    *,
    l2_normalise: bool = True,
    decoupled: bool = False,
    gather: Gather = all_gather,
) -> Tensor:
    """Normalised-temperature cross-entropy (SimCLR, Chen et al. 2020, eq. 1), over all ranks.

    Computed in float32 at least, outside autocast, without TF32. Every rank must hold equally many rows.

    Args:
        z: this rank's projections, (2B, D); rows i and i+B are the two views of image i.
        temperature: tau > 0; the paper uses 0.1 on ImageNet.
        l2_normalise: compare directions; otherwise dot products (table 5).
        decoupled: leave the positive out of the denominator, as well as the anchor itself (Yeh et al. 2022, eq. 6).
        gather: `all_gather`, or what times it.

    Returns:
        Scalar in nats: mean over this rank's 2B anchors. Averaged over ranks, as DDP does with gradients, it is the
        loss of the global batch. (The reference code's loss is twice this: a sum of the two views' means.)
    """
    with full_float32(z.device):
        rows = at_least_float32(z)
        if l2_normalise:
            rows = unit_rows(rows)
        if z.device.type == "cpu" and world_size() == 1 and l2_normalise and _one_shift_serves(rows.dtype, temperature):
            return _by_tiles(rows, temperature, _TILE, decoupled=decoupled)
        keys = gather(rows)  # (W·2B, D), rank after rank
        chunk = max(1, _CHUNK_BYTES[z.device.type] // (len(keys) * keys.element_size()))
        return _by_rows(rows, keys, temperature, chunk, decoupled=decoupled)


def _one_shift_serves(dtype: torch.dtype, temperature: float) -> bool:
    """Whether exp((cosine - 1) / tau) is a normal number for every cosine, so that no row needs its own maximum."""
    return -2 / temperature >= _MOST_NEGATIVE_EXPONENT[dtype]


def _by_tiles(rows: Tensor, temperature: float, tile: int, *, decoupled: bool = False) -> Tensor:
    loss: Tensor = _Tiles.apply(rows, temperature, tile, decoupled)
    return loss


def _by_rows(rows: Tensor, keys: Tensor, temperature: float, chunk: int, *, decoupled: bool = False) -> Tensor:
    loss: Tensor = _Rows.apply(rows, keys, temperature, chunk, decoupled)
    return loss


class _Rows(torch.autograd.Function):
    """Chunks of anchors against all keys. A chunk holds whole rows, so that its gradient needs no second visit."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, keys: Tensor, temperature: float, chunk: int, decoupled: bool) -> Tensor:
        count = len(anchors)
        first = rank() * count  # of the anchors among the keys
        positives = anchors.roll(count // 2, 0)
        total = -(anchors * positives).sum() / temperature
        of_anchors, of_keys = torch.empty_like(anchors), torch.zeros_like(keys)
        buffer = anchors.new_empty(min(chunk, count), len(keys))
        for start in range(0, count, chunk):
            part = anchors[start : start + chunk]
            similarity = torch.mm(part, keys.T, out=buffer[: len(part)]).div_(temperature)
            similarity.diagonal(first + start).fill_(-math.inf)  # an anchor is not its own key
            if decoupled:
                image = torch.arange(start, start + len(part), device=part.device)
                positive = first + (image + count // 2) % count
                similarity.scatter_(1, positive[:, None], -math.inf)
            largest = similarity.amax(1, keepdim=True)
            sums = similarity.sub_(largest).exp_().sum(1, keepdim=True)
            total += (sums.log() + largest).sum()
            probability = similarity.div_(sums)
            torch.mm(probability, keys, out=of_anchors[start : start + chunk])
            of_keys.addmm_(probability.T, part)
        of_anchors -= positives
        of_keys[first : first + count] -= positives
        ctx.save_for_backward(of_anchors, of_keys)
        ctx.scale = 1 / (count * temperature)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        of_anchors, of_keys = ctx.saved_tensors
        factor = upstream * ctx.scale
        return of_anchors * factor, of_keys * factor, None, None, None


class _Tiles(torch.autograd.Function):
    """Tiles on and above the diagonal, on one rank: forward sums the exponentials, backward visits them again."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, temperature: float, tile: int, decoupled: bool) -> Tensor:
        count = len(rows)
        sums = rows.new_zeros(count)
        for i in range(0, count, tile):
            for j in range(i, count, tile):
                exponentials = _tile(rows, i, j, tile, temperature, decoupled=decoupled)
                sums[i : i + tile] += exponentials.sum(1)
                if i != j:
                    sums[j : j + tile] += exponentials.sum(0)
        ctx.save_for_backward(rows, sums)
        ctx.temperature, ctx.tile, ctx.decoupled = temperature, tile, decoupled
        positive = (rows * rows.roll(count // 2, 0)).sum() / temperature
        return (sums.log().sum() + count / temperature - positive) / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, sums = ctx.saved_tensors
        temperature, tile, decoupled, count = ctx.temperature, ctx.tile, ctx.decoupled, len(rows)
        inverse = 1 / sums
        gradient = rows.roll(count // 2, 0).mul_(-2)
        for i in range(0, count, tile):
            for j in range(i, count, tile):
                exponentials = _tile(rows, i, j, tile, temperature, decoupled=decoupled)
                # P_ij + P_ji, the same exponential over the sums of two rows
                both = exponentials.mul_(inverse[i : i + tile, None] + inverse[j : j + tile])
                gradient[i : i + tile].addmm_(both, rows[j : j + tile])
                if i != j:
                    gradient[j : j + tile].addmm_(both.T, rows[i : i + tile])
        return gradient.mul_(upstream / (count * temperature)), None, None, None


def _tile(rows: Tensor, i: int, j: int, tile: int, temperature: float, *, decoupled: bool) -> Tensor:
    """exp((cosine - 1) / tau) of two blocks of rows, 0 on the diagonal of the matrix; decoupled, on positives, too."""
    exponentials = (rows[i : i + tile] @ rows[j : j + tile].T).sub_(1).div_(temperature).exp_()
    if i == j:
        exponentials.fill_diagonal_(0)
    if decoupled:
        for positive in (i - j + len(rows) // 2, i - j - len(rows) // 2):  # of the first view's rows, and the second's
            if -len(exponentials) < positive < exponentials.shape[1]:
                exponentials.diagonal(positive).fill_(0)
    return exponentials
