"""Data sets that are written anew."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_images import Tree, encoded, labelled_tree, tar_bytes, write_tree

from pipelines.build_shards import main
from pipelines.manifest import open_split, read_manifest
from pipelines.tools.verify import verify

Sample = tuple[str, str, int, int]
"""Name, class, height and width."""


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run(*arguments) == 2
    line: str = capsys.readouterr().err.splitlines()[-1]
    return line.removeprefix("build_shards: error: ")


def samples(directory: Path, name: str = "train") -> dict[bytes, Sample]:
    """What is known of every stored image."""
    split = open_split(directory, name)
    found = {}
    for record in split.samples:
        with tarfile.open(directory / split.shards[record["shard"]].file) as shard:
            members = {member.offset_data: member for member in shard}
            member = members[int(record["offset"])]
            key = member.name.rpartition(".")[0]
            data = shard.extractfile(member).read()  # type: ignore[union-attr]
            described = json.loads(shard.extractfile(f"{key}.json").read())  # type: ignore[union-attr]
        assert (described["height"], described["width"]) == (record["height"], record["width"])
        wnid = split.manifest.classes[record["label"]] if split.manifest.classes else ""
        found[data] = (described["name"], wnid, int(record["height"]), int(record["width"]))
    return found


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    tree = write_tree(tmp_path / "photos", labelled_tree(train=8, test=2))
    assert run("folder", "--source", tree, "--output", tmp_path / "parent", "--max-count", 5, "--workers", 1) == 0
    return tmp_path / "parent"


def test_the_same_samples_stand_in_another_order(tmp_path: Path, parent: Path) -> None:
    output = tmp_path / "out"
    assert run("reshuffle", parent, "--output", output, "--seed", 5, "--max-count", 7, "--workers", 1) == 0
    for split in ("train", "test"):
        assert samples(output, split) == samples(parent, split)
        assert list(samples(output, split)) != list(samples(parent, split))
    assert read_manifest(output).statistics == read_manifest(parent).statistics
    assert read_manifest(output).name == read_manifest(parent).name
    assert verify(output) == 0


def test_sizes_of_the_originals_survive_two_resizings(tmp_path: Path, parent: Path) -> None:
    once, twice, thrice = tmp_path / "once", tmp_path / "twice", tmp_path / "thrice"
    assert run("reshuffle", parent, "--output", once, "--resize", "short:4", "--workers", 1) == 0
    assert run("reshuffle", once, "--output", twice, "--resize", "canvas:3", "--workers", 1) == 0
    assert run("reshuffle", twice, "--output", thrice, "--format", "png", "--workers", 1) == 0
    resizes = [read_manifest(directory).resize for directory in (parent, once, twice, thrice)]
    assert resizes == ["none", "short:4", "canvas:3", "canvas:3"]
    for directory, size in ((parent, (9, 6)), (once, (6, 4)), (twice, (3, 3)), (thrice, (3, 3))):
        assert sorted(samples(directory).values()) == sorted(samples(parent).values())
        assert {Image.open(io.BytesIO(data)).size for data in samples(directory)} == {size}
    assert {Image.open(io.BytesIO(data)).format for data in samples(thrice)} == {"PNG"}


def test_a_damaged_sample_is_found_by_its_checksum(
    tmp_path: Path, parent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = open_split(parent, "train").samples[0]
    shard = parent / "train-000000.tar"
    data = bytearray(shard.read_bytes())
    data[int(record["offset"]) + int(record["size"]) - 1] ^= 1  # in the end mark, which no decoder misses
    shard.write_bytes(data)
    assert "1 bad images" in refused(capsys, "reshuffle", parent, "--output", tmp_path / "out", "--workers", 1)
    (fault,) = [json.loads(line) for line in (tmp_path / "out.errors.jsonl").read_text().splitlines()]
    assert fault["reason"] == "its checksum is not the one in the index"


def foreign(root: Path) -> Path:
    members: Tree = {}
    for n in range(6):
        members |= {f"sample{n}.jpg": encoded(n), f"sample{n}.cls": b"%d" % (n % 2), f"sample{n}.txt": b"a caption"}
    return write_tree(root, {"train-000000.tar": tar_bytes(members)})


def test_foreign_shards_keep_images_and_labels(tmp_path: Path) -> None:
    root = foreign(tmp_path / "foreign")
    assert run("index", root, "--workers", 1) == 0
    assert run("reshuffle", root, "--output", tmp_path / "out", "--workers", 1) == 0
    labels = open_split(tmp_path / "out", "train").samples["label"]
    assert np.bincount(labels).tolist() == [3, 3]
    found = {data: sample[0] for data, sample in samples(tmp_path / "out").items()}
    assert found == {encoded(n): f"sample{n}.jpg" for n in range(6)}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            lambda content: content.update(resize="canvas:4"),
            ["--resize", "short:2"],
            "its images were stretched (canvas",
        ),
        (
            lambda content: content["splits"].update(extra=content["splits"]["test"]),
            [],
            "has a split 'extra'; expected",
        ),
        (lambda content: content["splits"].pop("train"), [], "has no train split"),
        (
            lambda content: content["splits"]["train"]["shards"][0].update(file="s3://bucket/x.tar"),
            [],
            "s3://bucket/x.tar: only local shards can be written anew; copy them to a disk first",
        ),
    ],
)
def test_what_cannot_be_written_anew_is_refused(
    tmp_path: Path,
    parent: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[object], object],
    options: list[str],
    message: str,
) -> None:
    content = json.loads((parent / "manifest.json").read_text())
    change(content)
    (parent / "manifest.json").write_text(json.dumps(content))
    assert message in refused(capsys, "reshuffle", parent, "--output", tmp_path / "out", *options)
    assert not any("out" in path.name for path in tmp_path.iterdir())


def test_a_directory_that_is_no_data_set_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a data set directory" in refused(capsys, "reshuffle", tmp_path, "--output", tmp_path / "out")
