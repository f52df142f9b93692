"""Tells the store which shards are coming, so that remote ones are on this node before they are read.

window      0 1 2 | 3 4 5 | 6 7 8        shards in the order of the epoch
reading     ^                            wanted: 0 to 5; from the first sample of 3 on: 3 to 8
"""

import numpy as np

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex
from pipelines.order import shard_windows
from pipelines.store import Store


class ReadAhead:
    """Follows the steps of a run."""

    def __init__(self, split: SplitIndex, data: DataConfig, seed: int, store: Store) -> None:
        """Check that the node can hold what is wanted at once.

        Raises:
            DataError: two windows of remote shards exceed data.shard_cache_bytes.
        """
        self._counts, self._window_shards, self._seed = split.samples_per_shard, data.window_shards, seed
        self._store = store
        self._epoch, self._window = -1, -1
        largest = sorted((shard.bytes for shard in split.shards), reverse=True)[: 2 * data.window_shards]
        if store.keeps_copies and sum(largest) > data.shard_cache_bytes:
            raise DataError(
                f"data.shard_cache_bytes = {data.shard_cache_bytes}: two windows of data.window_shards = "
                f"{data.window_shards} shards of {split.location} take up to {sum(largest)}; raise it, lower "
                "data.window_shards, or set data.remote = ranges"
            )

    def reach(self, epoch: int, position: int) -> None:
        """Say that reading has come to a position of an epoch's order."""
        if epoch != self._epoch:
            self._epoch, self._window = epoch, -1
            self._windows = shard_windows(self._counts, self._window_shards, self._seed, epoch)
            self._ends = np.cumsum(np.bincount(self._windows, weights=self._counts))
        window = int(np.searchsorted(self._ends, position, side="right"))
        if window == self._window:
            return
        self._window = window
        wanted = np.flatnonzero(self._windows == window).tolist()
        if window + 1 < len(self._ends):
            wanted += np.flatnonzero(self._windows == window + 1).tolist()
        else:
            coming = shard_windows(self._counts, self._window_shards, self._seed, epoch + 1)
            wanted += [shard for shard in np.flatnonzero(coming == 0).tolist() if shard not in wanted]
        self._store.read_ahead(wanted)
