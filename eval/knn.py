"""The nearest-neighbour vote on frozen features: nothing is learned, so nothing can be tuned."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor

from eval.config import KnnConfig
from eval.features import LabelledFeatures, share_equal

_CHUNK_SIMILARITIES = 2**24


@dataclass(frozen=True, kw_only=True)
class KnnScore:
    """What the vote came to."""

    top1: float
    """Share of test images, in [0, 1]."""
    k: int
    """Neighbours that voted."""
    temperature: float


def score_knn(
    train: LabelledFeatures, test: LabelledFeatures, classes: int, config: KnnConfig, device: torch.device
) -> KnnScore:
    """Classify the test features by their neighbours among the train features."""
    predicted = knn_classify(train, test.features, classes, config, device)
    return KnnScore(
        top1=share_equal(predicted, test.labels),
        k=min(config.k, len(train.labels)),
        temperature=config.temperature,
    )


@torch.inference_mode()
def knn_classify(
    train: LabelledFeatures,
    queries: Tensor,
    classes: int,
    config: KnnConfig,
    device: torch.device,
    chunk_similarities: int = _CHUNK_SIMILARITIES,
) -> Tensor:
    """Weighted vote of the k most similar features (Wu et al. 2018, section 3.4).

    Exact: every query meets every train feature, a few queries at a time.

    Args:
        train: the memory, N features.
        queries: (Q, D) float32 on the host.
        classes: their number.
        config: k and temperature.
        device: where it is computed; holds the memory.
        chunk_similarities: held at once, 4 bytes each; at least one query's.

    Returns:
        (Q,) int64 labels on the host; of equal votes, the first class.
    """
    memory = F.normalize(train.features.to(device), dim=1)
    labels = train.labels.to(device)
    k = min(config.k, len(labels))
    predicted = []
    for chunk in queries.split(max(1, chunk_similarities // len(labels))):
        similarity, neighbour = (F.normalize(chunk.to(device), dim=1) @ memory.T).topk(k, dim=1)
        # Relative to the nearest, which changes no comparison and cannot overflow at a low temperature.
        vote = ((similarity - similarity[:, :1]) / config.temperature).exp()
        votes = torch.zeros(len(chunk), classes, device=device).scatter_add_(1, labels[neighbour], vote)
        predicted.append(votes.argmax(dim=1).cpu())
    return torch.cat(predicted)
