"""Verification of data sets that are not simply the builder's: foreign, resized, parts, remote."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_shards import sample, samples, write_shard
from raw_images import encoded, labelled_tree, write_tree
from remote_servers import http_directory

from pipelines.build_shards import main
from pipelines.manifest import open_split, read_manifest, write_manifest
from pipelines.tools.index_files import write_split_index
from pipelines.tools.index_foreign import IndexOptions, index_foreign
from pipelines.tools.subset import SubsetOptions, write_subset


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Four samples in two shards; one is a PNG by the name of jpg, as in ImageNet."""
    write_shard(tmp_path / "tars" / "0.tar", samples("a", "b"))
    write_shard(tmp_path / "tars" / "1.tar", [*samples("c"), *sample("d", 1, encoded(9, "png"))])
    index_foreign(IndexOptions(sources=(str(tmp_path / "tars"),)))
    return tmp_path / "tars"


def built(tmp_path: Path, *options: object) -> Path:
    tree = write_tree(tmp_path / "photos", labelled_tree(train=5, test=2))
    arguments = ["folder", "--source", tree, "--output", tmp_path / "out", "--max-count", 4, "--workers", 1, *options]
    assert main([str(argument) for argument in arguments]) == 0
    return tmp_path / "out"


def faults(directory: Path | str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    status = main(["verify", str(directory), "--json"])
    report = json.loads(capsys.readouterr().out)
    found = [": ".join(filter(None, fault.values())) for s in report["splits"].values() for fault in s["faults"]]
    assert (status, report["ok"]) == (int(bool(found)), not found)
    return found


def change_records(directory: Path, field: str, row: int, value: int) -> None:
    """Change the index and make the manifest agree."""
    split = open_split(directory, "train")
    records = split.samples.copy()
    records[field][row] = value
    written = write_split_index(directory, "train", records, split.shards)
    write_manifest(directory, replace(split.manifest, splits={**split.manifest.splits, "train": written}))


def change_manifest(directory: Path, **changes: Any) -> None:
    write_manifest(directory, replace(read_manifest(directory), **changes))


def test_a_foreign_data_set_is_ok(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert faults(foreign, capsys) == []


@pytest.mark.parametrize("field", ["offset", "size", "crc32", "label", "height", "width"])
def test_a_wrong_field_of_a_foreign_record_is_found(
    foreign: Path, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    change_records(foreign, field, 1, 0 if field == "label" else 7)
    found = faults(foreign, capsys)
    assert found[0].startswith("0.tar: b: ")
    assert found[0].endswith((", the index says 7", ", the index says 7 x 9", ", the index says 6 x 7", "index says 0"))


def test_damage_of_a_foreign_shard_is_found(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((foreign / "1.tar").read_bytes())
    data[1000] ^= 1
    (foreign / "1.tar").write_bytes(data)
    assert faults(foreign, capsys)[0] == "1.tar: sha256 differs from manifest.json"


def test_dalis_index_beside_a_foreign_shard_is_checked(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (foreign / "1.idx").unlink()
    assert any(line.startswith("1.idx: cannot be read") for line in faults(foreign, capsys))


def test_statistics_may_be_unknown_only_where_no_pixel_was_seen(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_manifest(foreign, statistics={}, pixels_checked=False)
    assert faults(foreign, capsys) == []
    change_manifest(foreign, pixels_checked=True)
    assert faults(foreign, capsys) == ["manifest.json: statistics are not those of the train split"]


@pytest.mark.parametrize("resize", ["canvas:8", "short:4", "short:7"])
def test_resized_images_have_the_sizes_that_were_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], resize: str
) -> None:
    output = built(tmp_path, "--resize", resize)
    assert read_manifest(output).resize == resize
    record = open_split(output, "train").samples[0]
    assert (record["height"], record["width"]) == (6, 9)
    assert faults(output, capsys) == []


@pytest.mark.parametrize(
    ("stored", "claimed", "what"),
    [
        ("canvas:8", "canvas:9", "stored as 8 x 8, canvas:9 makes 9 x 9 of the 6 x 9 in the index"),
        ("canvas:8", "short:8", "stored as 8 x 8, short:8 makes 6 x 9 of the 6 x 9 in the index"),
        ("short:4", "short:5", "stored as 4 x 6, short:5 makes 5 x 8 of the 6 x 9 in the index"),
        ("canvas:8", "none", "height x width 8 x 8, the index says 6 x 9"),
        ("none", "canvas:8", "stored as 6 x 9, canvas:8 makes 8 x 8 of the 6 x 9 in the index"),
    ],
)
def test_another_size_than_was_asked_for_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stored: str, claimed: str, what: str
) -> None:
    output = built(tmp_path, "--resize", stored) if stored != "none" else built(tmp_path)
    change_manifest(output, resize=claimed)
    assert faults(output, capsys)[0] == f"train-000000.tar: train-00000000: {what}"


def test_a_resize_that_does_not_exist_is_found(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_manifest(foreign, resize="canvas:x")
    assert "manifest.json: resize is 'canvas:x', expected " in faults(foreign, capsys)[0]


def test_a_part_is_ok_without_the_rest_of_its_shards(
    tmp_path: Path, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, whole in enumerate((built(tmp_path), foreign)):
        part = tmp_path / f"part{number}"
        write_subset(SubsetOptions(directory=str(whole), output=part, fraction=0.5))
        assert faults(part, capsys) == []


def test_a_wrong_record_of_a_part_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_subset(SubsetOptions(directory=str(built(tmp_path)), output=tmp_path / "part", fraction=0.5))
    change_records(tmp_path / "part", "crc32", 0, 7)
    assert "crc32 " in faults(tmp_path / "part", capsys)[0]
    change_records(tmp_path / "part", "offset", 0, 7)
    count = open_split(tmp_path / "part", "train").shards[0].samples
    assert (
        f"{count - 1} samples, the index has {count}, manifest.json says {count}"
        in faults(tmp_path / "part", capsys)[0]
    )


def test_two_records_of_one_sample_are_found(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_records(foreign, "offset", 1, int(np.load(foreign / "train.index.npy")["offset"][0]))
    assert faults(foreign, capsys)[0] == "0.tar: 1 samples of the index lie where others lie"


def test_a_record_of_a_shard_that_is_not_there_is_found(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = np.load(foreign / "train.index.npy")
    records["shard"][3] = 9
    np.save(foreign / "train.index.npy", records)
    found = faults(foreign, capsys)
    assert "train.index.npy: 1 samples in shards that manifest.json does not have" in found


def test_data_on_a_server_is_verified_by_one_pass(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with http_directory(foreign) as server:
        assert faults(server.url, capsys) == []
        assert server.count("0.tar") == 1
        (foreign / "1.tar").unlink()
        assert faults(server.url, capsys)[0] == "1.tar: no such file on the server"


def test_several_processes_find_the_same_faults(
    foreign: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change_records(foreign, "crc32", 1, 7)
    change_records(foreign, "crc32", 2, 7)
    alone = faults(foreign, capsys)
    monkeypatch.setattr("pipelines.tools.shard_pool.BYTES_PER_PROCESS", 1)
    capsys.readouterr()
    assert main(["verify", str(foreign), "--workers", "2"]) == 1
    assert capsys.readouterr().out.splitlines() == [*alone, "train: 4 samples in 2 shards, 2 faults"]
    assert len(alone) == 2
