"""Naive float64 references of the health numbers, as loops. Imports nothing of ours."""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def health(z: Floats, h: Floats) -> dict[str, float]:
    """Of (2N, D) projections, rows i and i+N a pair, and (2N, F) representations."""
    count = len(z)
    rows = [row / np.linalg.norm(row) for row in z]
    distances, positives, negatives, hits = [], [], [], 0
    exponentials = []
    for i in range(count):
        positive = (i + count // 2) % count
        to_others = {k: float(rows[i] @ rows[k]) for k in range(count) if k != i}
        rivals = [cosine for k, cosine in to_others.items() if k != positive]
        positives.append(to_others[positive])
        negatives += rivals
        hits += to_others[positive] > max(rivals)
        distances.append(float(((rows[i] - rows[positive]) ** 2).sum()))
        exponentials += [math.exp(-2 * float(((rows[i] - rows[k]) ** 2).sum())) for k in range(count) if k != i]
    features = np.stack([row / np.linalg.norm(row) for row in h])
    singular = np.linalg.svd(z, compute_uv=False)
    share = singular / singular.sum() + 1e-7
    return {
        "alignment": float(np.mean(distances)),
        "uniformity": math.log(np.mean(exponentials)),
        "positive_similarity": float(np.mean(positives)),
        "negative_similarity": float(np.mean(negatives)),
        "contrastive_top1": hits / count,
        "effective_rank": math.exp(-float((share * np.log(share)).sum())),
        "feature_std": float(features.std(axis=0).mean()) * math.sqrt(h.shape[1]),
    }
