import shutil
from pathlib import Path

import pytest
import torch

from pipelines.config import DataConfig, ViewsConfig
from pipelines.loader import Batch, Share, training_batches
from pipelines.manifest import SplitIndex, open_split


@pytest.fixture
def train(shards: Path, tmp_path: Path) -> SplitIndex:
    """A copy, in which samples 13 and 40 are damaged."""
    split = open_split(shutil.copytree(shards, tmp_path / "data"), "train")
    for sample in (13, 40):
        record = split.samples[sample]
        with Path(split.shard_location(int(record["shard"]))).open("r+b") as shard:
            shard.seek(int(record["offset"]) + int(record["size"]) // 2)
            shard.write(b"damage")
    return split


def batches(split: SplitIndex, directory: Path | None, *, rank: int = 0, world_size: int = 1) -> list[Batch]:
    data = DataConfig(canvas=32, bad_sample_budget=0.1, cache="none")
    share = Share(global_batch=8, seed=0, rank=rank, world_size=world_size, last_step=16)
    return list(training_batches(split, data, ViewsConfig(size=16), share, torch.device("cpu"), directory))


def ids(found: list[Batch]) -> list[list[int]]:
    return [batch.sample_id.tolist() for batch in found]


def test_a_sample_known_to_be_damaged_is_not_read_again_and_logged_once(
    train: SplitIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = batches(train, tmp_path / "run")
    for epoch in (found[:8], found[8:]):
        skipped = {(skip.sample_id, skip.reason) for batch in epoch for skip in batch.skipped}
        assert skipped == {(13, "checksum"), (40, "checksum")}
    assert caplog.text.count("is damaged") == 2
    assert "train-000000.tar at byte" in caplog.text
    assert "000013.png" in caplog.text


def test_a_restarted_run_remembers_and_replaces_alike(
    train: SplitIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = batches(train, tmp_path / "run")
    caplog.clear()
    second = batches(train, tmp_path / "run")
    assert ids(second) == ids(first)
    assert not caplog.text


def test_what_one_rank_found_every_rank_knows_after_a_restart(
    train: SplitIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ranks = [batches(train, tmp_path / "run", rank=rank, world_size=2) for rank in range(2)]
    caplog.clear()
    alone = batches(train, tmp_path / "run")
    assert ids(alone) == [a + b for a, b in zip(*map(ids, ranks), strict=True)]
    assert not caplog.text


def test_a_line_cut_by_a_kill_and_notes_of_other_data_are_passed_over(train: SplitIndex, tmp_path: Path) -> None:
    notes = tmp_path / "run"
    notes.mkdir()
    (notes / "rank00000.jsonl").write_text('{"sample": 5, "reason": "checksum", "data": "other"}\n{"sample": 6, "rea')
    found = batches(train, notes)
    assert {skip.sample_id for batch in found for skip in batch.skipped} == {13, 40}


def test_a_disk_that_takes_no_notes_is_a_warning(
    train: SplitIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").write_text("a file where the directory should be")
    found = batches(train, tmp_path / "run" / "damaged_samples")
    assert {skip.sample_id for batch in found for skip in batch.skipped} == {13, 40}
    assert "rank00000.jsonl cannot be written (Not a directory)" in caplog.text
