"""How much better one score is than another of the same test images: paired, by the bootstrap over these images.

An image that both answer alike says nothing about the difference, whatever it says about either, so that the interval
is narrower than those of the two scores would have it.
"""

from dataclasses import dataclass

import numpy as np

from eval.confidence import RESAMPLES, Labels, bootstrap_difference

_SEED, _RESAMPLES_AT_ONCE = 0, 500


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Shares in [-1, 1]."""

    value: float
    low: float
    """Of the 95 % interval."""
    high: float

    @property
    def is_resolved(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def paired_difference(first: Labels, second: Labels, right: Labels, metric: str) -> Difference:
    """The first answers' score less the second's.

    Args:
        first: (N,) answers.
        second: (N,) others' to the same images.
        right: (N,) the right ones.
        metric: top1, over images; mean_per_class, over the classes that `right` has, each counting alike.
    """
    if metric == "top1":
        value, low, high = bootstrap_difference(first, second, right)
        return Difference(value=value, low=low, high=high)
    gain = (first == right).astype(np.int64) - (second == right)  # of each image: 1, 0 or -1
    _, of_class = np.unique(right, return_inverse=True)
    classes = int(of_class.max()) + 1
    counts = np.stack([np.bincount(of_class[gain == sign], minlength=classes) for sign in (1, 0, -1)], axis=1)  # (C, 3)
    generator, means = np.random.default_rng(_SEED), []
    for _ in range(0, RESAMPLES, _RESAMPLES_AT_ONCE):
        drawn = generator.multinomial(len(right), counts.ravel() / len(right), _RESAMPLES_AT_ONCE)
        drawn = drawn.reshape(-1, classes, 3)
        of_each = drawn.sum(axis=2)
        gains = (drawn[:, :, 0] - drawn[:, :, 2]) / np.maximum(of_each, 1)
        means.append(gains.sum(axis=1) / (of_each > 0).sum(axis=1))  # a class that was not drawn does not count
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    value = float(((counts[:, 0] - counts[:, 2]) / counts.sum(axis=1)).mean())
    return Difference(value=value, low=float(low), high=float(high))
