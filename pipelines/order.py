"""Which sample stands where: a pure function of (seed, epoch, step) that does not know how many ranks there are.

    epoch order   3 0 7 5 | 1 6 2 4 | 9 8        N = 10, global batch 4; the tail (9 8) is dropped in this epoch
    step                0         1
    rank 0 of 2   3 0       1 6
    rank 1 of 2       7 5       2 4

Resuming needs one integer, the step; and k ranks see the global batches that one rank would.
"""

import numpy as np
import numpy.typing as npt

from pipelines.hashing import hash64

IdArray = npt.NDArray[np.int64]

# First words of the hashes, so that shards, samples and views never share random numbers.
_SHARD, _SAMPLE = 1, 2


def steps_per_epoch(samples: int, global_batch: int) -> int:
    """Whole global batches in an epoch; the rest, fewer than a global batch, is dropped."""
    return samples // global_batch


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
    shards = len(samples_per_shard)
    place_of_shard = np.argsort(np.argsort(hash64(_SHARD, seed, epoch, np.arange(shards)), kind="stable"))
    window = np.repeat(place_of_shard // window_shards, samples_per_shard)
    within = hash64(_SAMPLE, seed, epoch, np.arange(samples_per_shard.sum()))
    return np.lexsort((within, window))


def rank_positions(global_batch: int, rank: int, world_size: int) -> IdArray:
    """Positions within each global batch that a rank computes: (global_batch / world_size,), contiguous."""
    local = global_batch // world_size
    return np.arange(rank * local, (rank + 1) * local)


def replacement(order: IdArray, step_in_epoch: int, global_batch: int, position: int, attempt: int) -> int | None:
    """The sample that stands in for a damaged one.

    Each position of the global batch owns its own candidates: every global_batch-th sample behind the batch, around the
    epoch, outside the batch. So no two positions, on whatever ranks, pick the same one.

    Args:
        order: of the epoch, (N,).
        step_in_epoch: of the global batch.
        global_batch: its size.
        position: within the global batch.
        attempt: from 0; counts the candidates tried before.

    Returns:
        A sample id, or None when the position has run out of candidates.
    """
    candidate = position + attempt * global_batch
    if candidate >= len(order) - global_batch:
        return None
    return int(order[((step_in_epoch + 1) * global_batch + candidate) % len(order)])
