"""Naive float64 references, written from the paper and the reference code's formulas. Imports nothing of ours."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def nt_xent(z: Floats, temperature: float) -> float:
    """Equation 1 of Chen et al. 2020, averaged over the 2N anchors, as loops. Rows i and i+N are a pair."""
    rows = [row / np.linalg.norm(row) for row in z]
    count = len(rows)
    total = 0.0
    for i in range(count):
        positive = (i + count // 2) % count
        exponents = [float(rows[i] @ rows[k]) / temperature for k in range(count) if k != i]
        largest = max(exponents)
        log_sum = largest + math.log(sum(math.exp(e - largest) for e in exponents))
        total += log_sum - float(rows[i] @ rows[positive]) / temperature
    return total / count


def numeric_gradient(function: Callable[[Floats], float], x: Floats, step: float = 1e-6) -> Floats:
    """Central differences."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        plus, minus = x.copy(), x.copy()
        plus[index] += step
        minus[index] -= step
        gradient[index] = (function(plus) - function(minus)) / (2 * step)
    return gradient


def lars(
    w: Floats, v: Floats, g: Floats, *, lr: float, momentum: float, weight_decay: float, adapt: bool
) -> tuple[Floats, Floats]:
    """One update of the reference code's LARSOptimizer; returns the new weights and momentum."""
    g = g + weight_decay * w
    trust = 1.0
    if adapt:
        w_norm, g_norm = math.sqrt(float((w * w).sum())), math.sqrt(float((g * g).sum()))
        if w_norm > 0 and g_norm > 0:
            trust = 0.001 * w_norm / g_norm
    v = momentum * v + lr * trust * g
    return w - v, v


def learning_rate(step: int, peak: float, warmup: int, total: int) -> float:
    """The reference code's WarmUpAndCosineDecay."""
    if step < warmup:
        return step / warmup * peak
    return peak * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


def batchnorm(x: Floats, eps: float) -> Floats:
    """Normalise (N, C, ...) per channel by the batch's own mean and biased variance."""
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    mean = x.mean(axis=axes, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
    normalised: Floats = (x - mean) / np.sqrt(variance + eps)
    return normalised
