"""What would be built, and whether there is room for it."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from raw_images import labelled_tree, write_archive

from pipelines.build_shards import main
from pipelines.manifest import read_manifest


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "photos.tar.gz", labelled_tree(train=8, test=2))


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("folder", "--source", archive, "--output", tmp_path / "deep" / "out", "--max-count", 5, "--workers", 1)
    assert run(*command, "--dry-run") == 0
    out, err = capsys.readouterr()
    assert not err
    rows = [line.split() for line in out.splitlines()]
    assert [row[:4] for row in rows[1:3]] == [["train", "16", "2", "4"], ["test", "4", "2", "1"]]
    assert rows[3][0] == f"{tmp_path}:"
    assert list(tmp_path.iterdir()) == [archive]
    assert run(*command) == 0
    manifest = read_manifest(tmp_path / "deep" / "out")
    for (_, _, _, shards, size), split in zip(rows[1:3], manifest.splits.values(), strict=True):
        written = sum(shard.bytes for shard in split.shards)
        assert len(split.shards) == int(shards)
        assert written <= int(size.replace(",", "")) < 2 * written


def test_a_dry_run_of_a_part_counts_its_share(
    tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("folder", "--source", archive, "--output", tmp_path / "out", "--max-count", 5, "--dry-run", "--part")
    images = 0
    for part in range(3):
        assert run(*command, f"{part}/3") == 0
        images += sum(int(line.split()[1]) for line in capsys.readouterr().out.splitlines()[1:3])
    assert images == 20


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path: Path,
    archive: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 0, 5000))
    assert run("folder", "--source", archive, "--output", tmp_path / "out", *options) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"build_shards: error: {tmp_path}")
    assert line.endswith("bytes are needed, but 5,000 are free")
    assert list(tmp_path.iterdir()) == [archive]


def test_a_dry_run_refuses_an_output_in_use(tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("folder", "--source", archive, "--output", archive, "--dry-run") == 2
    assert "exists and is not an empty directory" in capsys.readouterr().err
