import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tiny_shards import tiny_shards

from pipelines.canvas_cache import open_canvas_cache
from pipelines.config import DataConfig, ViewsConfig
from pipelines.errors import DataError
from pipelines.loader import Batch, Share, training_batches
from pipelines.manifest import SplitIndex, open_split

CPU = torch.device("cpu")
Kind = Literal["none", "memory", "disk", "auto"]


@pytest.fixture
def train(shards: Path) -> SplitIndex:
    return open_split(shards, "train")


def batches(split: SplitIndex, kind: Kind, directory: Path, **share: Any) -> list[Batch]:
    data = DataConfig(canvas=32, window_shards=1, cache=kind, cache_dir=str(directory), bad_sample_budget=0.1)
    whole = {"global_batch": 8, "seed": 3, "last_step": 24} | share
    return list(training_batches(split, data, ViewsConfig(size=16), Share(**whole), CPU))


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.canvas, b.canvas)
        assert a.canvas.stride() == b.canvas.stride()
        assert torch.equal(a.sample_id, b.sample_id)
        assert torch.equal(a.plan.numbers, b.plan.numbers)


@pytest.mark.parametrize("kind", ["memory", "disk", "auto"])
def test_order_canvases_and_draws_are_those_without_a_cache(train: SplitIndex, tmp_path: Path, kind: Kind) -> None:
    assert_equal(batches(train, kind, tmp_path), batches(train, "none", tmp_path))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_every_sample_is_decoded_once(train: SplitIndex, tmp_path: Path, kind: Kind) -> None:
    work = [batch.work for batch in batches(train, kind, tmp_path)]
    assert sum(w.images_decoded for w in work) == 64
    assert sum(w.images_cached for w in work) == 2 * 64
    assert sum(w.bytes_read for w in work) == train.samples["size"].sum()
    assert all(w.bytes_read == w.images_decoded == 0 for w in work[8:])


def test_the_next_run_finds_the_canvases_of_the_disk(train: SplitIndex, tmp_path: Path) -> None:
    first = batches(train, "disk", tmp_path)
    second = batches(train, "disk", tmp_path)
    assert_equal(second, first)
    assert sum(batch.work.images_decoded for batch in second) == 0


def test_ranks_share_the_canvases_of_the_disk(train: SplitIndex, tmp_path: Path) -> None:
    ranks = [batches(train, "disk", tmp_path, rank=rank, world_size=2, last_step=8) for rank in range(2)]
    again = [batches(train, "disk", tmp_path, rank=rank, world_size=2, first_step=8) for rank in range(2)]
    assert sum(batch.work.images_decoded for rank in ranks for batch in rank) == 64
    assert sum(batch.work.images_decoded for rank in again for batch in rank) == 0


def test_a_canvas_that_aged_on_the_disk_is_decoded_again(train: SplitIndex, tmp_path: Path) -> None:
    first = batches(train, "disk", tmp_path)
    (pixels,) = (tmp_path / "canvases").glob("*.uint8")
    with pixels.open("r+b") as file:
        file.seek(5 * 32 * 32 * 3 + 100)
        file.write(b"rot")
    second = batches(train, "disk", tmp_path)
    assert_equal(second, first)
    assert sum(batch.work.images_decoded for batch in second) == 1


def test_another_data_set_has_canvases_of_its_own(train: SplitIndex, tmp_path: Path) -> None:
    batches(train, "disk", tmp_path)
    other = open_split(
        tiny_shards(tmp_path / "other", images_per_class=16, classes=4, side=32, labelled=False), "train"
    )
    assert_equal(batches(other, "disk", tmp_path), batches(other, "none", tmp_path))


def test_a_disk_without_room_is_told_before_anything_is_decoded(
    train: SplitIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"no room for 196608 bytes of decoded canvases .* set data.cache = none"):
        batches(train, "disk", tmp_path)


def test_auto_leaves_alone_what_does_not_fit_an_eighth_of_the_memory(
    train: SplitIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(free: int, ranks: int) -> bool:
        monkeypatch.setattr("pipelines.canvas_cache._free_host_memory", lambda: free)
        return open_canvas_cache(train, DataConfig(canvas=32), CPU, ranks) is not None

    wanted = 64 * 32 * 32 * 3
    assert opened(8 * wanted, ranks=1)
    assert not opened(8 * wanted - 1, ranks=1)
    assert not opened(8 * wanted, ranks=2)


def test_a_killed_run_leaves_canvases_that_the_next_one_can_trust(shards: Path, tmp_path: Path) -> None:
    program = (
        "import sys, torch\n"
        "from pipelines.config import DataConfig, ViewsConfig\n"
        "from pipelines.loader import Share, training_batches\n"
        "from pipelines.manifest import open_split\n"
        "data = DataConfig(canvas=32, window_shards=1, cache='disk', cache_dir=sys.argv[2])\n"
        "share = Share(global_batch=8, seed=3, last_step=10**6)\n"
        "device = torch.device('cpu')\n"
        "for batch in training_batches(open_split(sys.argv[1], 'train'), data, ViewsConfig(size=16), share, device):\n"
        "    print(batch.step, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, shards, tmp_path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        while int(child.stdout.readline()) < 2:
            pass
        os.kill(child.pid, signal.SIGKILL)
    split = open_split(shards, "train")
    found = batches(split, "disk", tmp_path)
    assert_equal(found, batches(split, "none", tmp_path))
    assert np.sum([batch.work.images_decoded for batch in found]) < 64
