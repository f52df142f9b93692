import os
import time
from pathlib import Path

import numpy as np
import pytest
from remote_servers import Fault, http_directory

from ops.doctor.storage import (
    drop_from_page_cache,
    drop_shards_from_page_cache,
    fetch_shards,
    only_shards,
    rank_ids,
    read_seconds,
    share_in_page_cache,
)
from pipelines.config import DataConfig
from pipelines.manifest import SplitIndex, open_split
from pipelines.order import IdArray
from pipelines.store import Store


@pytest.fixture
def split(shards: Path) -> SplitIndex:
    return open_split(shards, "train")


def test_the_ranks_read_every_sample_of_an_epoch_once(split: SplitIndex) -> None:
    ids = [rank_ids(split, DataConfig(), 3, 8, (rank, 2)) for rank in range(2)]
    assert sorted(np.concatenate(ids).tolist()) == list(range(64))
    whole = rank_ids(split, DataConfig(), 3, 8, (0, 1))
    assert whole[:8].tolist() == [*ids[0][:4].tolist(), *ids[1][:4].tolist()]


def test_a_part_of_a_split_holds_the_same_images(split: SplitIndex) -> None:
    part = only_shards(split, [1], 20)
    assert (len(part), len(part.shards), part.samples_per_shard.tolist()) == (20, 1, [20])
    assert part.shards[0].file == split.shards[1].file
    originals = np.flatnonzero(split.samples["shard"] == 1)[:20]
    whole, restricted = Store(split, DataConfig()), Store(part, DataConfig())
    try:
        expected, got = whole.read(originals), restricted.read(np.arange(20))
    finally:
        whole.close()
        restricted.close()
    assert not got.reasons
    assert [bytes(image) for image in got.images] == [bytes(image) for image in expected.images]


def test_reading_stops_when_time_is_over_but_not_before_something_was_read(split: SplitIndex) -> None:
    class Slow:
        def read(self, ids: IdArray) -> None:
            time.sleep(0.002 * len(ids))

    seconds, read = read_seconds(Slow(), np.arange(4000), 0.3)  # type: ignore[arg-type]  # stands for a store
    assert read == 256
    assert seconds == pytest.approx(0.002, rel=0.3)


@pytest.mark.parametrize("whole_files", [False, True])
def test_samples_that_the_kernel_was_asked_to_forget_are_not_in_memory(split: SplitIndex, *, whole_files: bool) -> None:
    ids = np.arange(len(split))
    for shard in range(len(split.shards)):
        Path(split.shard_location(shard)).read_bytes()
    before = share_in_page_cache(split, ids)
    if before is None:
        pytest.skip("this file system does not tell what is in the page cache")
    assert before == 1
    for shard in range(len(split.shards)):  # what is not yet written cannot be forgotten
        descriptor = os.open(split.shard_location(shard), os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    if whole_files:
        drop_shards_from_page_cache(split)
    else:
        drop_from_page_cache(split, ids)
    after = share_in_page_cache(split, ids)
    if after == 1:
        pytest.skip("this file system keeps what it has")
    assert after is not None
    assert after < (0.5 if whole_files else 0.8)  # pages that the kernel keeps together go only as a whole


def test_shards_are_copied_at_the_pace_of_the_source(shards: Path, tmp_path: Path) -> None:
    size = sum(shard.bytes for shard in open_split(shards, "train").shards)
    with http_directory(shards, lambda _: Fault(bytes_per_second=size)) as served:  # each shard half a second
        split = open_split(served.url, "train")
        data = DataConfig(dir=served.url, cache_dir=str(tmp_path))
        rate, there = fetch_shards(split, data, (0, 1), wanted_samples=64, seconds=(0.1, 20))
    assert sorted(there) == [0, 1]
    assert sorted(path.name for path in (tmp_path / "shards").iterdir() if len(path.name) == 64) == sorted(
        shard.sha256 for shard in split.shards
    )
    assert 0.7 * size < rate < 2.2 * size  # two at a time, each with a connection of its own


def test_ranks_of_a_node_copy_different_shards(shards: Path, tmp_path: Path) -> None:
    with http_directory(shards) as served:
        split = open_split(served.url, "train")
        for rank in range(2):
            data = DataConfig(dir=served.url, cache_dir=str(tmp_path / str(rank)))
            _, there = fetch_shards(split, data, (rank, 2), wanted_samples=32, seconds=(0.0, 20))
            assert there == [rank]
