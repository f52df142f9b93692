"""Numbers that tell whether representations are becoming useful or collapse, over the global batch.

They are the same for any number of ranks, up to rounding. Computed at logging steps: similarities go through memory in
chunks, as in the loss, and cost about as much as its forward pass. The effective rank waits for the device.
"""

import math

import torch
from torch import Tensor

from model.collectives import all_gather, all_reduce, rank, world_size
from model.precision import full_float32
from model.projections import at_least_float32, unit_rows

_CHUNK_BYTES = 2**26
"""Of similarities held at once."""
_RANKME_EPSILON = 1e-7


@torch.no_grad()
def health(z: Tensor, h: Tensor, chunk_bytes: int = _CHUNK_BYTES) -> dict[str, Tensor]:
    """Look at projections and representations of this rank's part of the global batch.

    Args:
        z: (2B, D); rows i and i+B are the two views of image i. Every rank holds equally many.
        h: (2B, F).
        chunk_bytes: of similarities held at once.

    Returns:
        Scalars on the device, by name. With u, v of length 1 in the direction of two projections:

        alignment: mean of ||u - v||^2 over positive pairs, in [0, 4] (Wang & Isola 2020, alpha = 2).
        uniformity: log of the mean of exp(-2 ||u - v||^2) over pairs of different rows, both views of an image among
            them; in [-8, 0] (same, t = 2).
        positive_similarity, negative_similarity: mean cosine, in [-1, 1].
        contrastive_top1: share of anchors whose positive is more similar than every negative; a tie is a miss.
        effective_rank: RankMe of z (Garrido et al. 2023, eq. 1), in [1, D].
        feature_std: standard deviation of each dimension of h / ||h||, averaged, times sqrt(F): 1 if directions are
            spread evenly, 0 if they have collapsed (Chen & He 2021, section 4.1).
    """
    with full_float32(z.device):
        rows, features = unit_rows(at_least_float32(z)), unit_rows(at_least_float32(h))
        pairs = all_reduce(_sums_over_pairs(rows, all_gather(rows), chunk_bytes))
        moments = all_reduce(torch.stack([features.double().sum(0), features.double().square().sum(0)]))
        gram = all_reduce(z.double().T @ z.double())
    anchors = len(z) * world_size()
    exponentials, similarities, positives, hits = pairs.unbind()
    mean, square = (moments / anchors).unbind()
    return {
        "alignment": 2 - 2 * positives / anchors,
        "uniformity": (exponentials / (anchors * (anchors - 1))).log(),
        "positive_similarity": positives / anchors,
        "negative_similarity": (similarities - positives) / max(1, anchors * (anchors - 2)),
        "contrastive_top1": hits / anchors,
        "effective_rank": _effective_rank(gram, anchors),
        "feature_std": (square - mean.square()).clamp_min(0).sqrt().mean() * math.sqrt(h.shape[1]),
    }


def _sums_over_pairs(anchors: Tensor, keys: Tensor, chunk_bytes: int) -> Tensor:
    """(4,) float64, over this rank's anchors: exp(-2 d^2), cosines, positives' cosines, hits; itself never counts."""
    count = len(anchors)
    first = rank() * count  # of the anchors among the keys
    positive_at = first + torch.arange(count, device=anchors.device).roll(count // 2)[:, None]
    chunk = max(1, chunk_bytes // (len(keys) * keys.element_size()))
    sums = torch.zeros(4, dtype=torch.float64, device=anchors.device)
    for start in range(0, count, chunk):
        part = slice(start, start + chunk)
        similarity = anchors[part] @ keys.T
        itself = similarity.diagonal(first + start)
        cosines = similarity.sum(1).double().sum() - itself.double().sum()
        itself.fill_(-math.inf)
        exponentials = ((similarity - 1) * 4).exp_().sum(1).double().sum()  # d^2 = 2 - 2 cosine
        positive = similarity.gather(1, positive_at[part])
        rival = similarity.scatter_(1, positive_at[part], -math.inf).amax(1, keepdim=True)
        hits = (positive > rival).sum(dtype=torch.float64)
        sums += torch.stack([exponentials, cosines, positive.sum(dtype=torch.float64), hits])
    return sums


def _effective_rank(gram: Tensor, rows: int) -> Tensor:
    """Exponential of the entropy of the singular values, from the (D, D) matrix of their squares; NaN if it has one."""
    finite = gram.isfinite().all()
    gram = torch.where(finite, gram, 0)  # or the eigenvalues would be an error
    # Ascending. Of fewer rows than columns there are only as many singular values; the rest is rounding.
    singular = torch.linalg.eigvalsh(gram)[-rows:].clamp_min(0).sqrt()
    share = singular / singular.sum().clamp_min(_RANKME_EPSILON) + _RANKME_EPSILON
    entropy: Tensor = -(share * share.log()).sum()
    return torch.where(finite, entropy.exp(), math.nan)
