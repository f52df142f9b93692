"""NT-Xent over the global batch, exact in value and gradient for any number of ranks."""

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor

from model.collectives import all_gather, rank


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Normalised-temperature cross-entropy (SimCLR, Chen et al. 2020, eq. 1), over all ranks.

    Computed in float32 at least, outside autocast. Every rank must hold equally many rows.

    Args:
        z: this rank's projections, (2B, D); rows i and i+B are the two views of image i.
        temperature: tau > 0; the paper uses 0.1 on ImageNet.

    Returns:
        Scalar in nats: mean over this rank's 2B anchors. Averaged over ranks, as DDP does with gradients, it is the
        loss of the global batch. (The reference code's loss is twice this: a sum of the two views' means.)
    """
    with torch.autocast(z.device.type, enabled=False):
        anchors = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)
        keys = all_gather(anchors)  # (W·2B, D), rank after rank
        row = torch.arange(len(z), device=z.device)
        itself = rank() * len(z) + row
        positive = rank() * len(z) + row.roll(len(z) // 2)
        similarity = anchors @ keys.T / temperature  # (2B, W·2B)
        similarity = similarity.scatter(1, itself[:, None], float("-inf"))
        return F.cross_entropy(similarity, positive)
