"""How well classes are mixed over shards: training shuffles whole shards, but samples only within a few of them."""

import numpy as np
import numpy.typing as npt

from pipelines.config import DataConfig
from pipelines.hashing import hash64
from pipelines.manifest import IndexArray

WELL_MIXED = 0.8
ADVICE = "`python -m pipelines.build_shards reshuffle DIR --output NEW` mixes them"


def label_mixing(samples: IndexArray) -> float:
    """Mean entropy of the labels within a shard, as a part of what the same shards would have after a full shuffle.

    Shards count by their samples. 1 is a perfect mixture; near 0 every shard holds one class. The shuffled labels are
    the measure because a shard of 100 samples cannot hold 1,000 classes, however well they are mixed.
    """
    label = samples["label"].astype(np.int64)
    shuffled = label[np.argsort(hash64(0, np.arange(len(label))), kind="stable")]
    best = _entropy_within_shards(samples["shard"], shuffled)
    return 1.0 if best == 0 else _entropy_within_shards(samples["shard"], label) / best


def mixing_warning(split: str, samples: IndexArray) -> str | None:
    """A line that advises to reshuffle, or None if there is no need."""
    mixing = label_mixing(samples)
    if mixing >= WELL_MIXED:
        return None
    shards, window = int(samples["shard"].max()) + 1, DataConfig().window_shards
    ordered = f"{split}: samples lie ordered by class (mixing {mixing:.2f} of 1)"
    if shards <= window:
        return f"{ordered}; harmless while data.window_shards is at least {shards}, all shards; else {ADVICE}"
    return f"{ordered}, and training mixes only {window} of {shards:,} shards at a time (data.window_shards); {ADVICE}"


def _entropy_within_shards(shard: npt.NDArray[np.integer], label: npt.NDArray[np.int64]) -> float:
    """Mean over samples, in nats."""
    if not len(label):
        return 0.0
    pairs, counts = np.unique(shard.astype(np.int64) * (label.max() + 2) + label + 1, return_counts=True)
    in_shard = np.bincount(pairs // (label.max() + 2), weights=counts)[pairs // (label.max() + 2)]
    return float((counts * np.log(in_shard / counts)).sum() / len(label))
