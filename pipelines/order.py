"""Which sample stands where: a pure function of (seed, epoch, step) that does not know how many ranks there are.

    epoch order   3 0 7 5 | 1 6 2 4 | 9 8        N = 10, global batch 4; the tail (9 8) is dropped in this epoch
    step                0         1
    rank 0 of 2   3 0       1 6
    rank 1 of 2       7 5       2 4

Resuming needs one integer, the step; and k ranks see the global batches that one rank would.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.hashing import UInt64Array, hash64

IdArray = npt.NDArray[np.int64]

# First words of the hashes, so that shards, samples and views never share random numbers.
_SHARD, _SAMPLE = 1, 2


def steps_per_epoch(samples: int, global_batch: int) -> int:
    """Whole global batches in an epoch; the rest, fewer than a global batch, is dropped."""
    return samples // global_batch


def shard_windows(samples_per_shard: IdArray, window_shards: int, seed: int, epoch: int) -> IdArray:
    """Which window of an epoch each shard belongs to: (shards,), from 0 in the order of reading."""
    shards = len(samples_per_shard)
    place_of_shard = np.argsort(np.argsort(hash64(_SHARD, seed, epoch, np.arange(shards)), kind="stable"))
    return place_of_shard // window_shards


def epoch_order(samples_per_shard: IdArray, window_shards: int, seed: int, epoch: int) -> IdArray:
    """Permute all samples of a split: shards are shuffled, then samples within windows of consecutive shuffled shards.

    Args:
        samples_per_shard: (shards,) counts; sample ids count through the shards in their stored order.
        window_shards: shards per window. At least all of them makes the permutation uniform.
        seed: of the run, in [0, 2^64).
        epoch: from 0.

    Returns:
        (N,) every sample id once. Any prefix is drawn from few shards, so that reading stays local.
    """
    window_of_shard = shard_windows(samples_per_shard, window_shards, seed, epoch)
    keys = hash64(_SAMPLE, seed, epoch, np.arange(samples_per_shard.sum()))
    window = np.repeat(window_of_shard.astype(np.min_scalar_type(len(samples_per_shard))), samples_per_shard)
    by_window = np.argsort(window, kind="stable")
    windows = np.split(by_window, np.cumsum(np.bincount(window))[:-1])
    return np.concatenate([members[_argsort(keys[members])] for members in windows])


def _argsort(keys: UInt64Array) -> IdArray:
    """Places of the keys in order, equal ones as they stand; the fast sort does not promise that, but none tie."""
    order = np.argsort(keys)
    ordered = keys[order]
    return np.argsort(keys, kind="stable") if (ordered[1:] == ordered[:-1]).any() else order


class SampleOrder:
    """The global batches of a run; remembers the order of the epoch that it was last asked about."""

    def __init__(self, samples_per_shard: IdArray, *, window_shards: int, global_batch: int, seed: int) -> None:
        self._counts, self._window_shards, self._seed = samples_per_shard, window_shards, seed
        self._global_batch = global_batch
        self._steps = steps_per_epoch(int(samples_per_shard.sum()), global_batch)
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> "GlobalBatch":
        """The global batch of a step, from 0."""
        epoch, place = divmod(step, self._steps)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self._counts, self._window_shards, self._seed, epoch)
        return GlobalBatch(epoch=epoch, first=place * self._global_batch, size=self._global_batch, order=self._order)


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """A slice of an epoch's order."""

    epoch: int
    first: int
    """Position of its first sample in the order."""
    size: int
    order: IdArray
    """Of the whole epoch, (N,)."""

    def ids(self, rank: int, world_size: int) -> IdArray:
        """(size / world_size,) sample ids that a rank computes; a copy."""
        local = self.size // world_size
        return self.order[self.first + rank * local : self.first + (rank + 1) * local].copy()

    def replacement(self, position: int, attempt: int) -> int | None:
        """The sample that stands in for a damaged one.

        Each position of the global batch owns its own candidates: every size-th sample behind the batch, around the
        epoch, outside the batch. So no two positions, on whatever ranks, pick the same one.

        Args:
            position: within the global batch.
            attempt: from 0; counts the candidates tried before.

        Returns:
            A sample id, or None when the position has run out of candidates.
        """
        candidate = position + attempt * self.size
        if candidate >= len(self.order) - self.size:
            return None
        return int(self.order[(self.first + self.size + candidate) % len(self.order)])


def rank_positions(global_batch: int, rank: int, world_size: int) -> IdArray:
    """Positions within each global batch that a rank computes: (global_batch / world_size,), contiguous."""
    local = global_batch // world_size
    return np.arange(rank * local, (rank + 1) * local)
