"""Shards made by others become a data set where they lie, and nothing half-made remains."""

import importlib
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from foreign_shards import Members, sample, samples, stored_images, write_shard
from indexing import files, index, refused, three_tars
from raw_images import encoded

from pipelines.build_shards import main
from pipelines.manifest import MANIFEST_NAME, open_split, read_manifest


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    return three_tars(tmp_path / "tars")


def labels(directory: Path, split_name: str = "train") -> list[int]:
    return [int(label) for label in open_split(directory, split_name).samples["label"]]


def test_a_directory_of_tars_becomes_a_data_set_where_it_lies(tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(tars)
    index(tars)
    assert set(files(tars)) - set(before) == {
        MANIFEST_NAME,
        "train.index.npy",
        "val.index.npy",
        *(Path(name).with_suffix(".idx").name for name in before),
    }
    assert {name: files(tars)[name] for name in before} == before
    summary = [line.split()[:4] for line in capsys.readouterr().out.splitlines()]
    assert summary[1:3] == [["train", "8", "2", "2"], ["val", "4", "2", "1"]]
    manifest = read_manifest(tars)
    assert (manifest.name, manifest.classes, manifest.whole_shards) == ("tars", ("0", "1"), True)
    keys = [f"train-{shard:04d}-{number}" for shard in range(2) for number in range(4)]
    images = [encoded(zlib.crc32(key.encode())) for key in keys]
    assert stored_images(tars) == list(zip(images, [0, 1] * 4, strict=True))
    assert main(["verify", str(tars)]) == 0


def test_dalis_index_is_what_dalis_own_tool_writes(tmp_path: Path) -> None:
    members = [*samples("a", "d/b", "p" * 90 + "/" + "q" * 90), ("c.JPEG", encoded(3)), ("c.cls", b"1")]
    write_shard(tmp_path / "tars" / "x.tar", members)
    index(tmp_path / "tars")
    tool = importlib.import_module("wds2idx")
    with tool.IndexCreator(str(tmp_path / "tars" / "x.tar"), str(tmp_path / "theirs.idx"), verbose=False) as creator:
        creator.create_index()
    assert (tmp_path / "tars" / "x.idx").read_text() == (tmp_path / "theirs.idx").read_text()


def test_statistics_are_those_of_the_train_pixels_or_none_without_decoding(tars: Path) -> None:
    index(tars, check="header")
    trusted = open_split(tars, "train")
    assert (trusted.manifest.statistics, trusted.manifest.pixels_checked) == ({}, False)
    index(tars, overwrite=True)
    decoded = open_split(tars, "train")
    assert len(decoded.manifest.statistics["mean"]) == 3
    assert decoded.manifest.pixels_checked
    np.testing.assert_array_equal(decoded.samples, trusted.samples)


def test_several_processes_find_the_same(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tools.shard_pool.BYTES_PER_PROCESS", 1)
    index(tars, output=tmp_path / "one", workers=1)
    index(tars, output=tmp_path / "two", workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_an_index_elsewhere_names_the_shards_relatively_so_that_both_can_move(tars: Path, tmp_path: Path) -> None:
    before = files(tars)
    index(tars, output=tmp_path / "sets" / "mine")
    assert files(tars) == before
    (tmp_path / "moved").mkdir()
    for name in ("tars", "sets"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    split = open_split(tmp_path / "moved" / "sets" / "mine", "train")
    assert split.shards[0].file == "../../tars/set-train-0000.tar"
    assert len(stored_images(tmp_path / "moved" / "sets" / "mine")) == 8
    assert main(["verify", str(tmp_path / "moved" / "sets" / "mine")]) == 0


def test_class_names_come_from_a_file(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nelk\n")
    index(tars, classes=names)
    assert read_manifest(tars).classes == ("cat", "dog", "elk")
    capsys.readouterr()
    for text, message in [("cat\n\n", "line 2 is empty"), ("cat\ncat\n", "line 2 is 'cat' again"), ("", "empty")]:
        names.write_text(text)
        assert message in refused(capsys, "index", tars, "--overwrite", "--classes", names)


@pytest.mark.parametrize(
    ("members", "label"),
    [
        ([("a.jpg", encoded(1)), ("a.cls", b" 1\n")], 1),
        ([("a.jpg", encoded(1)), ("a.cls", b"01")], 1),
        ([("a.jpg", encoded(1)), ("a.json", b'{"label": 1}')], 1),
        ([("a.jpg", encoded(1)), ("a.json", b'{"class_id": 1, "class_name": "x"}')], 1),
        ([("a.jpg", encoded(1)), ("a.json", b'{"label": "n01440764", "cls": 1}')], 1),
        ([("a.jpg", encoded(1)), ("a.cls", b"1"), ("a.json", b'{"label": 0}')], 1),
        ([("a.jpg", encoded(1)), ("a.json", b'{"label": true}')], -1),
        ([("a.jpg", encoded(1)), ("a.json", b"[" * 5000)], -1),
        ([("a.jpg", encoded(1)), ("a.txt", b"a caption"), ("a.cls", b"-1")], -1),
    ],
)
def test_labels_come_from_cls_or_else_from_json(tmp_path: Path, members: Members, label: int) -> None:
    write_shard(tmp_path / "x.tar", members)
    index(tmp_path)
    assert labels(tmp_path) == [label]
    assert len(read_manifest(tmp_path).classes) == label + 1
    assert main(["verify", str(tmp_path)]) == 0


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.png", "./d.e/a.image.jpeg"])
def test_images_are_known_by_the_last_part_of_their_names(tmp_path: Path, name: str) -> None:
    write_shard(tmp_path / "x.tar", [(name, encoded(1, height=5, width=7))])
    index(tmp_path)
    record = open_split(tmp_path, "train").samples[0]
    assert (record["height"], record["width"], record["label"]) == (5, 7, -1)


@pytest.mark.parametrize("check", ["decode", "header"])
def test_sizes_are_of_the_upright_image(tmp_path: Path, check: str) -> None:
    write_shard(tmp_path / "x.tar", [("a.jpg", encoded(1, height=5, width=7, orientation=6))])
    index(tmp_path, check=check)
    assert tuple(open_split(tmp_path, "train").samples[0][["height", "width"]]) == (7, 5)


def test_an_earlier_index_is_replaced_only_on_demand(tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index(tars)
    before = files(tars)
    capsys.readouterr()
    assert refused(capsys, "index", tars) == (
        f"{tars / MANIFEST_NAME}: exists already; --overwrite replaces it and all that belongs to it"
    )
    assert files(tars) == before
    (tars / "errors.jsonl").write_text("old")
    index(tars, overwrite=True)
    assert files(tars) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_indexing_leaves_nothing_behind(
    tars: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def stop(*_: object) -> None:
        raise error

    before = files(tars)
    monkeypatch.setattr("pipelines.tools.index_files.write_manifest", stop)
    with pytest.raises(type(error)):
        index(tars)
    assert files(tars) == before


def test_an_earlier_index_survives_a_failed_one(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index(tars)
    before = files(tars)

    def stop(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.tools.place_files._sync", stop)
    with pytest.raises(OSError, match="No space"):
        index(tars, overwrite=True)
    assert files(tars) == before


def test_samples_ordered_by_class_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in range(3):
        members = [member for number in range(4) for member in sample(f"{label}-{number}", label)]
        write_shard(tmp_path / f"{label}.tar", members)
    index(tmp_path)
    err = capsys.readouterr().err
    assert "train: samples lie ordered by class (mixing 0.00 of 1)" in err
    assert "`python -m pipelines.build_shards reshuffle DIR --output NEW`" in err


def test_a_directory_reached_by_a_link_is_indexed_where_it_lies(tars: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tars)
    index(tmp_path / "link", output=tmp_path / "deep" / "out")
    assert os.path.realpath(open_split(tmp_path / "deep" / "out", "train").shard_location(0)).startswith(str(tars))
