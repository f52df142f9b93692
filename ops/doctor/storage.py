"""Reading encoded samples in the run's own order: from the disk, from the page cache, through the network."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines.config import DataConfig
from pipelines.manifest import SplitIndex
from pipelines.order import IdArray, SampleOrder
from pipelines.remote.locations import is_remote
from pipelines.remote.shard_cache import RemoteShard, ShardCache
from pipelines.store import Store

_CHUNK = 256
"""Samples read between two looks at the clock: four rounds of requests where they are fetched one by one."""
_PAGE = 4096
_POLL_SECONDS = 0.05


def rank_ids(split: SplitIndex, data: DataConfig, seed: int, global_batch: int, part: tuple[int, int]) -> IdArray:
    """(n,) sample ids that a rank reads, from the first step on, in order; n is at most an epoch's.

    Args:
        split: what is read.
        data: how it is shuffled.
        seed: of the run.
        global_batch: images a step.
        part: rank and number of ranks.
    """
    order = SampleOrder(split.samples_per_shard, window_shards=data.window_shards, global_batch=global_batch, seed=seed)
    return np.concatenate([order.batch(step).ids(*part) for step in range(len(split) // global_batch)])


def read_seconds(store: Store, ids: IdArray, seconds: float) -> tuple[float, int]:
    """Read samples for so long, or all of them.

    Returns:
        Seconds a sample, and how many were read.

    Raises:
        DataError: a remote data set cannot be reached.
    """
    done, start = 0, time.perf_counter()
    while done < len(ids) and (not done or time.perf_counter() - start < seconds):
        store.read(ids[done : done + _CHUNK])
        done = min(len(ids), done + _CHUNK)
    return (time.perf_counter() - start) / done, done


def share_in_page_cache(split: SplitIndex, ids: IdArray) -> float | None:
    """Share of samples on this machine's disks that lie in memory already; None where the file system does not say."""
    held = []
    try:
        for descriptor, offset, size in _places(split, ids):
            try:
                held.append(os.preadv(descriptor, [bytearray(size)], offset, os.RWF_NOWAIT) == size)
            except BlockingIOError:
                held.append(False)
    except OSError:
        return None
    return sum(held) / len(held) if held else None


def drop_from_page_cache(split: SplitIndex, ids: IdArray) -> None:
    """Ask the kernel to forget samples, so that reading them meets the disk; remote ones are not here."""
    for descriptor, offset, size in _places(split, ids):
        start = offset // _PAGE * _PAGE
        os.posix_fadvise(descriptor, start, -(-(offset + size) // _PAGE) * _PAGE - start, os.POSIX_FADV_DONTNEED)


def drop_shards_from_page_cache(split: SplitIndex) -> None:
    """The same of whole files: of a page that two samples share, too."""
    for shard in range(len(split.shards)):
        location = split.shard_location(shard)
        if not is_remote(location):
            with _opened(location) as descriptor:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def fetch_shards(
    split: SplitIndex, data: DataConfig, part: tuple[int, int], wanted_samples: int, seconds: tuple[float, float]
) -> tuple[float, list[int]]:
    """Copy shards to `data.cache_dir` as the run does, side by side.

    Args:
        split: what is read.
        data: how; its cache_dir is empty and this process's own.
        part: place among the ranks of this node, and their number; each copies other shards.
        wanted_samples: go on until there are so many in complete copies
        seconds: at least, and at most.

    Returns:
        Bytes a second of this rank, 0 if not even a piece of a shard came; and the shards of which there are complete
        copies.
    """
    mine = [shard for shard in range(len(split.shards)) if is_remote(split.shard_location(shard))]
    mine = mine[part[0] :: part[1]] or mine
    directory = Path(data.cache_dir).expanduser() / "shards"
    wished = {
        shard: RemoteShard(
            url=split.shard_location(shard), bytes=split.shards[shard].bytes, sha256=split.shards[shard].sha256
        )
        for shard in mine
    }
    least, most = seconds
    with closing(ShardCache(directory, data.shard_cache_bytes, threads=data.fetch_threads)) as copies:
        start, came, came_at = time.perf_counter(), 0, 0.0
        copies.read_ahead(list(wished.values()))
        while True:
            time.sleep(_POLL_SECONDS)
            passed = time.perf_counter() - start
            if copies.bytes_fetched > came:  # told piece by piece: what is under way when time is over does not count
                came, came_at = copies.bytes_fetched, passed
            there = [shard for shard, remote in wished.items() if (directory / remote.sha256).exists()]
            samples = sum(split.shards[shard].samples for shard in there)
            enough = passed >= least and samples >= wanted_samples
            if enough or passed >= most or len(there) == len(wished):
                return came / came_at if came else 0.0, there


def only_shards(split: SplitIndex, shards: Sequence[int], samples: int) -> SplitIndex:
    """A split of the first `samples` samples of some shards; all of theirs, if they have no more."""
    kept = split.samples[np.isin(split.samples["shard"], shards)][:samples]
    numbers = np.unique(kept["shard"])
    counts = np.bincount(np.searchsorted(numbers, kept["shard"]))
    entries = tuple(
        replace(split.shards[number], samples=count)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
    )
    renumbered = kept.copy()
    renumbered["shard"] = np.searchsorted(numbers, kept["shard"])
    return replace(split, shards=entries, samples=renumbered)


def _places(split: SplitIndex, ids: IdArray) -> Iterator[tuple[int, int, int]]:
    """Descriptor, offset and size of each sample that lies on this machine's disks, shard by shard."""
    records = split.samples[np.sort(ids)]
    for shard in np.unique(records["shard"]).tolist():
        location = split.shard_location(shard)
        if is_remote(location):
            continue
        with _opened(location) as descriptor:
            inside = records[records["shard"] == shard]
            for offset, size in zip(inside["offset"].tolist(), inside["size"].tolist(), strict=True):
                yield descriptor, offset, size


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
