"""How fast this rank comes by its encoded samples, and what stands for the data set once they are near."""

from dataclasses import dataclass, replace

from ops.doctor.config import DoctorConfig
from ops.doctor.kept import Kept
from ops.doctor.storage import (
    drop_from_page_cache,
    fetch_shards,
    only_shards,
    rank_ids,
    read_seconds,
    share_in_page_cache,
)
from pipelines.config import DataConfig
from pipelines.manifest import SplitIndex
from pipelines.order import IdArray
from pipelines.store import Store
from train.distributed import ranks_on_node
from train.ranks import Ranks

_WARM_SHARE = 0.9
_SAMPLED = 1024
"""Samples that are read, or looked up in the page cache; eight batches, if these are more."""
_FEW = 32
"""Samples that tell the speed of a very slow network."""
KEPT_BATCHES = 4
"""Global batches that stand for the whole data set where every epoch finds its samples near."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was found on one rank."""

    seconds: dict[str, float | None]
    """A step: storage_cold, storage_warm and fetch, None where there is no such thing."""
    near: SplitIndex
    """All of the data set, or the part of it of which there are copies now."""
    data: DataConfig
    """How `near` is read."""
    is_warm: bool
    """Samples lay in the page cache of every rank before anything was read."""
    cached_share: float | None
    """Of samples that did so on this rank; None where it cannot be told."""
    cold_share: float | None
    """Of samples that did not when they were read for storage_cold."""
    came: bool = True
    """Enough of a remote data set was copied to train on, on every rank."""


def measure_reading(config: DoctorConfig, split: SplitIndex, ranks: Ranks, kept: Kept, work: str) -> Reading:
    """Read as the run does, on all ranks at once.

    Args:
        config: of the run.
        split: what is read.
        ranks: that do the same.
        kept: where samples come from.
        work: directory for copies of shards.

    Raises:
        DataError: the data cannot be read.
    """
    if kept.source == "copies":
        return _copied(config, split, ranks, work)
    ids = _ids(split, config, ranks)
    sample = ids[:_SAMPLED]
    cached = share_in_page_cache(split, sample)
    (any_cold,) = ranks.most([cached is None or cached < _WARM_SHARE])
    drop_from_page_cache(split, ids)
    cached_when_read = share_in_page_cache(split, sample)
    local_batch = config.global_batch // ranks.world_size
    store = Store(split, config.data)
    try:
        ranks.most([0])
        cold, read = read_seconds(store, ids, config.seconds / 10)
        warm = None
        if kept.source == "local":
            warm = read_seconds(store, ids[:read], config.seconds / 10)[0] * local_batch
    finally:
        store.close()
    return Reading(
        seconds={"storage_cold": cold * local_batch, "storage_warm": warm, "fetch": None},
        near=split,
        data=config.data,
        is_warm=not any_cold,
        cached_share=cached,
        cold_share=None if cached_when_read is None else 1 - cached_when_read,
    )


def _copied(config: DoctorConfig, split: SplitIndex, ranks: Ranks, work: str) -> Reading:
    """Fetch shards to a directory of this process, then read those that came."""
    data = replace(config.data, cache_dir=work)
    on_node = ranks_on_node()
    ranks.most([0])
    wanted = KEPT_BATCHES * config.global_batch
    rate, there = fetch_shards(
        split, data, (ranks.rank % on_node, on_node), wanted, (config.seconds / 5, config.seconds)
    )
    if any(ranks.most([rate == 0])):
        rate = _range_rate(split, config, ranks)
    stored_bytes = sum(shard.bytes for shard in split.shards) / len(split)
    # Every node copies every shard, whichever of its samples its own ranks learn from.
    seconds: dict[str, float | None] = {
        "storage_cold": None,
        "storage_warm": None,
        "fetch": config.global_batch * stored_bytes / max(1.0, rate * on_node),
    }
    copies = only_shards(split, there, len(split))
    came = not ranks.most([len(copies) < config.global_batch])[0]
    if came:
        store = Store(copies, data)
        try:
            warm, _ = read_seconds(store, _ids(copies, config, ranks), config.seconds / 10)
        finally:
            store.close()
        seconds["storage_warm"] = warm * (config.global_batch // ranks.world_size)
    return Reading(
        seconds=seconds,
        near=copies if came else split,
        data=data if came else replace(data, remote="ranges"),
        is_warm=False,
        cached_share=None,
        cold_share=None,
        came=came,
    )


def _range_rate(split: SplitIndex, config: DoctorConfig, ranks: Ranks) -> float:
    """Bytes a second by a few ranged requests, where a shard's first piece takes too long."""
    ids = _ids(split, config, ranks)[:_FEW]
    store = Store(split, replace(config.data, remote="ranges"))
    try:
        seconds, _ = read_seconds(store, ids, config.seconds / 10)
    finally:
        store.close()
    return float(split.samples["size"][ids].mean()) / seconds


def _ids(split: SplitIndex, config: DoctorConfig, ranks: Ranks) -> IdArray:
    local_batch = config.global_batch // ranks.world_size
    part = (ranks.rank, ranks.world_size)
    return rank_ids(split, config.data, config.seed, config.global_batch, part)[: max(_SAMPLED, 8 * local_batch)]
