"""Naive float64 references of the losses, as loops from the paper's formulas. Imports nothing of ours."""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def decoupled(z: Floats, temperature: float) -> float:
    """Equation 6 of Yeh et al. 2022, averaged over the 2N anchors: only negatives stand in the denominator."""
    rows = [row / np.linalg.norm(row) for row in z]
    count = len(rows)
    total = 0.0
    for i in range(count):
        positive = (i + count // 2) % count
        negatives = [float(rows[i] @ rows[k]) / temperature for k in range(count) if k not in (i, positive)]
        largest = max(negatives)
        total += largest + math.log(sum(math.exp(negative - largest) for negative in negatives))
        total -= float(rows[i] @ rows[positive]) / temperature
    return total / count


def nt_xent_gradient(z: Floats, temperature: float, *, l2_normalise: bool = True) -> Floats:
    """Derivative of equation 1 of Chen et al. 2020, averaged over the 2N anchors, in z; anchor after anchor."""
    count = len(z)
    lengths = [float(np.linalg.norm(row)) if l2_normalise else 1.0 for row in z]
    rows = [row / length for row, length in zip(z, lengths, strict=True)]
    of_rows = [np.zeros_like(row) for row in rows]
    for i in range(count):
        positive = (i + count // 2) % count
        logits = {k: float(rows[i] @ rows[k]) / temperature for k in range(count) if k != i}
        largest = max(logits.values())
        total = sum(math.exp(logit - largest) for logit in logits.values())
        for k, logit in logits.items():
            of_similarity = (math.exp(logit - largest) / total - (k == positive)) / (count * temperature)
            of_rows[i] += of_similarity * rows[k]
            of_rows[k] += of_similarity * rows[i]
    if not l2_normalise:
        return np.stack(of_rows)
    return np.stack(
        [(g - row * float(row @ g)) / length for g, row, length in zip(of_rows, rows, lengths, strict=True)]
    )


def nt_xent_of_dot_products(z: Floats, temperature: float) -> float:
    """Equation 1 without normalisation (table 5)."""
    count = len(z)
    total = 0.0
    for i in range(count):
        logits = [float(z[i] @ z[k]) / temperature for k in range(count) if k != i]
        largest = max(logits)
        log_sum = largest + math.log(sum(math.exp(logit - largest) for logit in logits))
        total += log_sum - float(z[i] @ z[(i + count // 2) % count]) / temperature
    return total / count


def nt_logistic(z: Floats, temperature: float, margin: float, *, semi_hard: bool) -> float:
    """Table 2's NT-Logistic; the mean over negatives, or the one semi-hard negative."""
    total = 0.0
    for positive, negatives in _anchors(z):
        total -= math.log(_sigmoid(positive / temperature))
        chosen = _semi_hard(positive, negatives, margin) if semi_hard else negatives
        terms = [-math.log(_sigmoid(-negative / temperature)) for negative in chosen]
        total += sum(terms) / max(1, len(terms))
    return total / len(z)


def margin_triplet(z: Floats, margin: float, *, semi_hard: bool) -> float:
    """Table 2's margin triplet; the mean over negatives, or the one semi-hard negative."""
    total = 0.0
    for positive, negatives in _anchors(z):
        chosen = _semi_hard(positive, negatives, margin) if semi_hard else negatives
        terms = [max(negative - positive + margin, 0.0) for negative in chosen]
        total += sum(terms) / max(1, len(terms))
    return total / len(z)


def _anchors(z: Floats) -> Iterable[tuple[float, list[float]]]:
    """Of each anchor: the cosine to its positive and those to its negatives."""
    rows = [row / np.linalg.norm(row) for row in z]
    count = len(rows)
    for i in range(count):
        positive = (i + count // 2) % count
        yield (
            float(rows[i] @ rows[positive]),
            [float(rows[i] @ rows[k]) for k in range(count) if k not in (i, positive)],
        )


def _semi_hard(positive: float, negatives: list[float], margin: float) -> list[float]:
    """The most similar of those that are less similar than the positive, by less than the margin; or none."""
    candidates = [negative for negative in negatives if positive - margin < negative < positive]
    return [max(candidates)] if candidates else []


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
