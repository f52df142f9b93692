"""All shards of a split, and its index."""

import hashlib
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pipelines.errors import DataError
from pipelines.manifest import Shard, Split
from pipelines.shard_writer import WrittenShard, plan_shards, write_shard
from pipelines.sources import Fault, Source


@dataclass(frozen=True, kw_only=True)
class WrittenSplit:
    """A split whose shards are written; those without a single good image are left out."""

    name: str
    shards: list[WrittenShard]
    faults: list[Fault]
    seconds: float

    @property
    def samples(self) -> int:
        """Images that passed."""
        return sum(len(shard.records) for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def histogram(self) -> npt.NDArray[np.int64]:
        """(3, 256) pixel counts by channel and value."""
        total = np.zeros((3, 256), dtype=np.int64)
        for shard in self.shards:
            total += shard.histogram
        return total


def write_split(
    source: Source, split: str, directory: Path, *, seed: int, max_count: int, max_size: int
) -> WrittenSplit:
    """Write the shards of a split, with a progress bar on a terminal."""
    start = time.perf_counter()
    plans = plan_shards(source, split, seed, max_count, max_size)
    total = sum(len(plan.items) for plan in plans)
    with tqdm(total=total, desc=split, unit=" images", leave=False, disable=not sys.stderr.isatty()) as bar:
        written = [write_shard(plan, source, directory, tick=bar.update) for plan in plans]
    kept = [shard for shard in written if len(shard.records)]
    return WrittenSplit(
        name=split,
        shards=[_renumbered(shard, number, directory) for number, shard in enumerate(kept)],
        faults=[fault for shard in written for fault in shard.faults],
        seconds=time.perf_counter() - start,
    )


def write_index(split: WrittenSplit, directory: Path) -> Split:
    """Write a split's index and describe the split for the manifest.

    Raises:
        DataError: it has no samples.
    """
    if not split.shards:
        first = split.faults[0]
        raise DataError(f"split {split.name} has not a single good image; the first: {first.name}: {first.reason}")
    path = directory / f"{split.name}.index.npy"
    np.save(path, np.concatenate([shard.records for shard in split.shards]))
    return Split(
        samples=split.samples,
        index_file=path.name,
        index_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        shards=tuple(
            Shard(file=f"{shard.plan.stem}.tar", bytes=shard.bytes, samples=len(shard.records), sha256=shard.sha256)
            for shard in split.shards
        ),
    )


def _renumbered(shard: WrittenShard, number: int, directory: Path) -> WrittenShard:
    """Close the gap in the file names that a shard without a single good image leaves."""
    if shard.plan.number == number:
        return shard
    plan = replace(shard.plan, number=number)
    for suffix in (".tar", ".idx"):
        (directory / (shard.plan.stem + suffix)).rename(directory / (plan.stem + suffix))
    records = shard.records.copy()
    records["shard"] = number
    return replace(shard, plan=plan, records=records)
