import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from remote_servers import Fault, Request, http_directory, s3_directory
from tiny_shards import tiny_shards

from pipelines.config import DataConfig, ViewsConfig
from pipelines.errors import DataError
from pipelines.loader import Batch, Share, training_batches
from pipelines.manifest import open_split
from pipelines.prefetch import Prefetch
from pipelines.remote import locations

How = Literal["shards", "ranges"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of its own, whose shards have copies nowhere yet."""
    return tiny_shards(tmp_path_factory.mktemp("remote") / "data", images_per_class=12, classes=4, side=24)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "_FIRST_PAUSE_SECONDS", 0.01)


def batches(
    location: str | Path, cache_dir: Path, how: How = "shards", *, stop: threading.Event | None = None, **share: Any
) -> Iterator[Batch]:
    settings = DataConfig(
        canvas=24, window_shards=1, cache="none", cache_dir=str(cache_dir), remote=how, bad_sample_budget=0.1
    )
    whole = Share(**{"global_batch": 8, "seed": 1, "last_step": 12} | share)
    views = ViewsConfig(size=16)
    return training_batches(open_split(location, "train"), settings, views, whole, torch.device("cpu"), stop=stop)


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.sample_id, b.sample_id)
        assert torch.equal(a.canvas, b.canvas)
        assert torch.equal(a.plan.numbers, b.plan.numbers)


@pytest.mark.parametrize("how", ["shards", "ranges"])
def test_batches_from_s3_are_those_of_the_directory(data: Path, tmp_path: Path, s3_server: str, how: How) -> None:
    with s3_directory(data) as url:
        assert_equal(list(batches(url, tmp_path, how)), list(batches(data, tmp_path)))


@pytest.mark.parametrize("how", ["shards", "ranges"])
def test_batches_from_a_web_server_are_those_of_the_directory(data: Path, tmp_path: Path, how: How) -> None:
    with http_directory(data) as server:
        assert_equal(list(batches(server.url, tmp_path, how)), list(batches(data, tmp_path)))


def test_a_node_fetches_each_shard_once_and_says_how_much(data: Path, tmp_path: Path) -> None:
    shards = open_split(data, "train").shards
    with http_directory(data) as server:
        found = list(batches(server.url, tmp_path))
        assert sum(batch.work.bytes_fetched for batch in found) == sum(shard.bytes for shard in shards)
        again = list(batches(server.url, tmp_path, rank=1, world_size=2))
        assert sum(batch.work.bytes_fetched for batch in again) == 0


def test_ranged_reads_fetch_the_samples_and_nothing_else(data: Path, tmp_path: Path) -> None:
    with http_directory(data) as server:
        found = list(batches(server.url, tmp_path, "ranges", last_step=6))
    assert sum(batch.work.bytes_fetched for batch in found) == open_split(data, "train").samples["size"].sum()
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("how", ["shards", "ranges"])
def test_dropped_connections_change_nothing(data: Path, tmp_path: Path, how: How) -> None:
    def drop_every_other(request: Request) -> Fault | None:
        return Fault(drop_after=50) if request.name.endswith(".tar") and request.number % 2 == 0 else None

    with http_directory(data, drop_every_other) as server:
        assert_equal(list(batches(server.url, tmp_path, how, last_step=6)), list(batches(data, tmp_path, last_step=6)))


@pytest.mark.parametrize("how", ["shards", "ranges"])
def test_of_a_damaged_remote_shard_only_the_damaged_samples_are_skipped(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: How
) -> None:
    split = open_split(shutil.copytree(data, tmp_path / "data"), "train")
    record = split.samples[5]
    with Path(split.shard_location(0)).open("r+b") as shard:
        shard.seek(int(record["offset"]) + int(record["size"]) // 2)
        shard.write(b"damage")
    with http_directory(tmp_path / "data") as server:
        found = list(batches(server.url, tmp_path, how))
    assert {(skip.sample_id, skip.reason) for batch in found for skip in batch.skipped} == {(5, "checksum")}
    assert all(len(batch.sample_id.unique()) == 8 for batch in found)
    assert ("its samples are fetched and checked one by one" in caplog.text) == (how == "shards")


def test_a_server_that_is_gone_ends_the_run_with_one_line(data: Path, tmp_path: Path) -> None:
    with http_directory(data) as server:
        found = batches(server.url, tmp_path)
    with pytest.raises(DataError, match=r"train-00000\d.tar: ") as caught:
        list(found)
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_hold_two_windows_is_refused(data: Path, tmp_path: Path) -> None:
    with http_directory(data) as server:
        split = open_split(server.url, "train")
        settings = DataConfig(canvas=24, window_shards=1, cache_dir=str(tmp_path), shard_cache_bytes=50_000)
        share = Share(global_batch=8, seed=1, last_step=1)
        with pytest.raises(DataError, match=r"data.shard_cache_bytes = 50000: two windows .* data.remote = ranges"):
            list(training_batches(split, settings, ViewsConfig(size=16), share, torch.device("cpu")))


@pytest.mark.parametrize("how", ["shards", "ranges"])
def test_leaving_does_not_wait_for_a_slow_server(data: Path, tmp_path: Path, how: How) -> None:
    def slow(request: Request) -> Fault | None:
        return Fault(bytes_per_second=100) if request.name.endswith(".tar") else None

    with http_directory(data, slow) as server:
        stop = threading.Event()
        start = time.monotonic()
        with Prefetch(batches(server.url, tmp_path, how, stop=stop), depth=2, stop=stop):
            time.sleep(0.3)
        assert time.monotonic() - start < 5
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("prefetch", "shard"))]
