"""The losses that the paper compares NT-Xent with (Chen et al. 2020, tables 2 and 4), for studies.

Both hold the whole (2B, 2N) matrix of similarities. Conventions are NT-Xent's: rows i and i+B are the two views of an
image, each rank returns the mean over its own anchors, keys come from all ranks.

Semi-hard mining (Schroff et al. 2015), in the paper's words those negatives "that are within the loss margin and
closest in distance, but farther than positive examples": of each anchor the most similar negative among those less
similar than the positive, by less than the margin. An anchor without such a negative has no negative term.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor

from model.collectives import Gather, all_gather, rank
from model.config import LossConfig
from model.precision import full_float32
from model.projections import at_least_float32, unit_rows


def nt_logistic(config: LossConfig, z: Tensor, gather: Gather = all_gather) -> Tensor:
    """-log sigmoid(u.v+ / tau) - mean over negatives of log sigmoid(-u.v- / tau), this rank's mean over anchors.

    The paper's table 2 writes the negative term for one v-; over many we take the mean, so that neither term grows with
    the batch.
    """
    with full_float32(z.device):
        pairs = _compare(z, gather, l2_normalise=config.l2_normalise)
        attract = F.softplus(-pairs.positive / config.temperature)
        repel = F.softplus(pairs.similarity / config.temperature)
        return (attract + _over_negatives(config, pairs, repel)).mean()


def margin_triplet(config: LossConfig, z: Tensor, gather: Gather = all_gather) -> Tensor:
    """Mean over negatives of max(u.v- - u.v+ + m, 0), this rank's mean over anchors; no temperature."""
    with full_float32(z.device):
        pairs = _compare(z, gather, l2_normalise=config.l2_normalise)
        excess = (pairs.similarity - pairs.positive[:, None] + config.margin).clamp_min(0)
        return _over_negatives(config, pairs, excess).mean()


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    similarity: Tensor
    """(2B, 2N), of this rank's anchors to all keys."""
    positive: Tensor
    """(2B,), to the other view."""
    is_negative: Tensor
    """(2B, 2N) bool: neither the anchor itself nor its positive."""


def _compare(z: Tensor, gather: Gather, *, l2_normalise: bool) -> _Pairs:
    rows = at_least_float32(z)
    if l2_normalise:
        rows = unit_rows(rows)
    keys = gather(rows)
    row = torch.arange(len(z), device=z.device)
    itself, positive = rank() * len(z) + row, rank() * len(z) + row.roll(len(z) // 2)
    similarity = rows @ keys.T
    is_negative = torch.ones_like(similarity, dtype=torch.bool)
    is_negative.scatter_(1, itself[:, None], value=False).scatter_(1, positive[:, None], value=False)
    return _Pairs(
        similarity=similarity, positive=similarity.gather(1, positive[:, None])[:, 0], is_negative=is_negative
    )


def _over_negatives(config: LossConfig, pairs: _Pairs, term: Tensor) -> Tensor:
    """(2B,): the mean of a (2B, 2N) term over each anchor's negatives, or its value at the semi-hard one, else 0."""
    if not config.semi_hard:
        return torch.where(pairs.is_negative, term, 0).sum(1) / (pairs.similarity.shape[1] - 2)
    similarity, positive = pairs.similarity.detach(), pairs.positive.detach()[:, None]
    semi_hard = pairs.is_negative & (similarity < positive) & (similarity > positive - config.margin)
    closeness, chosen = torch.where(semi_hard, similarity, -math.inf).max(1, keepdim=True)
    return torch.where(closeness > -math.inf, term.gather(1, chosen), 0)[:, 0]
