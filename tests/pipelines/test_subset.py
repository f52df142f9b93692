"""A part of a data set shares its shards and can be read, verified and divided again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_shards import sample, stored_images, write_shard
from indexing import index, refused
from remote_servers import http_directory

from pipelines.build_shards import main
from pipelines.manifest import open_split, read_manifest
from pipelines.tools.subset import SubsetOptions, write_subset

CLASS_SIZES = {0: 40, 1: 20, 2: 20}


@pytest.fixture(scope="module")
def shared_whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 samples of train, in three classes, over 4 shards, and 6 of val."""
    directory = tmp_path_factory.mktemp("whole") / "whole"
    keys = [(f"n{label}_{n}", label) for label, count in CLASS_SIZES.items() for n in range(count)]
    mixed = [keys[row] for row in np.random.default_rng(0).permutation(len(keys))]
    for shard in range(4):
        members = []
        for key, label in mixed[shard::4]:
            image, cls, _ = sample(key, label)
            members += [image, cls, (f"{key}.json", json.dumps({"name": f"train/n{label}/{key}.JPEG"}).encode())]
        write_shard(directory / f"train-{shard}.tar", members)
    write_shard(directory / "val-0.tar", [m for n in range(6) for m in sample(f"v{n}", n % 3)])
    index(directory)
    return directory


@pytest.fixture
def whole(shared_whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared_whole, tmp_path / "whole"))


def subset(whole: Path | str, output: Path, **options: Any) -> dict[bytes, int]:
    """Make a part, and return its train images with their labels."""
    write_subset(SubsetOptions(directory=str(whole), output=output, **options))
    assert main(["verify", str(output), "--workers", "1"]) == 0
    return content(output)


def content(directory: Path, split_name: str = "train") -> dict[bytes, int]:
    images = stored_images(directory, split_name)
    assert len(dict(images)) == len(images)
    return dict(images)


def per_class(images: dict[bytes, int]) -> list[int]:
    return [list(images.values()).count(label) for label in range(3)]


def test_a_fraction_is_taken_at_random_and_the_other_splits_whole(whole: Path, tmp_path: Path) -> None:
    chosen = subset(whole, tmp_path / "part", fraction=0.25)
    assert len(chosen) == 20
    assert chosen.items() <= content(whole).items()
    assert content(tmp_path / "part", "val") == content(whole, "val")


def test_a_part_holds_no_shards_but_their_relative_places(whole: Path, tmp_path: Path) -> None:
    subset(whole, tmp_path / "deep" / "part", per_class=2)
    assert {path.name for path in (tmp_path / "deep" / "part").iterdir()} == {
        "manifest.json",
        "train.index.npy",
        "val.index.npy",
    }
    split = open_split(tmp_path / "deep" / "part", "train")
    assert {shard.file for shard in split.shards} <= {f"../../whole/train-{shard}.tar" for shard in range(4)}
    (tmp_path / "moved").mkdir()
    for name in ("whole", "deep"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    assert per_class(content(tmp_path / "moved" / "deep" / "part")) == [2, 2, 2]


def test_a_balanced_fraction_has_equally_many_of_every_class(whole: Path, tmp_path: Path) -> None:
    assert per_class(subset(whole, tmp_path / "part", fraction=0.5, balanced=True)) == [13, 13, 13]
    assert per_class(subset(whole, tmp_path / "tiny", fraction=0.001, balanced=True)) == [1, 1, 1]


@pytest.mark.parametrize("balanced", [False, True])
def test_smaller_fractions_lie_within_larger_ones_of_the_same_seed(whole: Path, tmp_path: Path, balanced: bool) -> None:
    parts = [
        subset(whole, tmp_path / f"{fraction}", fraction=fraction, balanced=balanced, seed=3)
        for fraction in (0.1, 0.3, 0.6)
    ]
    assert parts[0].keys() < parts[1].keys() < parts[2].keys()
    other = subset(whole, tmp_path / "other", fraction=0.3, balanced=balanced, seed=4)
    assert other.keys() != parts[1].keys()
    again = subset(whole, tmp_path / "again", fraction=0.3, balanced=balanced, seed=3)
    assert again == parts[1]
    assert read_manifest(tmp_path / "again").fingerprint == read_manifest(tmp_path / "0.3").fingerprint


def test_the_whole_as_a_part_is_the_whole(whole: Path, tmp_path: Path) -> None:
    assert subset(whole, tmp_path / "part", fraction=1.0) == content(whole)


def test_a_part_of_a_part_names_the_shards_of_the_whole(whole: Path, tmp_path: Path) -> None:
    subset(whole, tmp_path / "half", fraction=0.5)
    quarter = subset(tmp_path / "half", tmp_path / "a" / "quarter", fraction=0.5)
    assert quarter.items() < content(tmp_path / "half").items()
    split = open_split(tmp_path / "a" / "quarter", "train")
    assert all(shard.file.startswith("../../whole/train-") for shard in split.shards)
    half = split.manifest.made["whole"]["made"]
    assert (half["source"], half["whole"]["made"]["source"]) == ("subset", "index")


def test_statistics_are_those_of_the_whole_and_said_to_be(whole: Path, tmp_path: Path) -> None:
    subset(whole, tmp_path / "part", per_class=1)
    part = read_manifest(tmp_path / "part")
    assert part.statistics == read_manifest(whole).statistics
    assert part.made["statistics"] == "of the whole"
    assert (part.whole_shards, part.pixels_checked) == (False, True)


@pytest.mark.parametrize(
    "form", ["train/n{label}/n{label}_{n}.JPEG", "n{label}_{n}.JPEG", "n{label}_{n}", "n{label}_{n}.jpg"]
)
def test_a_list_names_samples_by_source_or_key(whole: Path, tmp_path: Path, form: str) -> None:
    wanted = [(0, 3), (2, 19), (1, 0), (0, 4)]
    path = tmp_path / "list.txt"
    path.write_text("\n".join(form.format(label=label, n=n) for label, n in [*wanted, wanted[0]]) + "\n\n")
    images = subset(whole, tmp_path / "part", list=path)
    assert images == {sample(f"n{label}_{n}")[0][1]: label for label, n in wanted}


def test_data_on_a_server_is_divided_without_a_copy(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("n1_3.JPEG")
    with http_directory(whole) as server:
        for options in ({"per_class": 1}, {"list": path}):
            output = tmp_path / f"{'-'.join(options)}"
            write_subset(SubsetOptions(directory=server.url, output=output, **options))
            (shard, *_) = open_split(output, "train").shards
            assert shard.file.startswith(f"{server.url}/train-")
            assert main(["verify", str(output), "--workers", "1"]) == 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "n0_1.JPEG\nn9_1.JPEG\nn9_2.JPEG\n",
            "2 of 3 names are not in split train of {whole}, such as n9_1.JPEG, n9_2",
        ),
        ("v0", "1 of 1 names are not in split train of {whole}, such as v0"),
        ("\n", "empty; expected file names or keys, one a line"),
        (b"\xff\xfe", "not a text file in UTF-8"),
    ],
)
def test_a_bad_list_is_one_line(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: str | bytes, message: str
) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    line = refused(capsys, "subset", whole, "--output", tmp_path / "part", "--list", path)
    assert line.startswith(f"{path}: {message.format(whole=whole)}")
    assert not (tmp_path / "part").exists()


def test_a_name_that_fits_two_samples_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = []
    for key, name in (("a", "cat/0.jpg"), ("b", "dog/0.jpg")):
        members += [*sample(key)[:2], (f"{key}.json", json.dumps({"name": name}).encode())]
    write_shard(tmp_path / "whole" / "x.tar", members)
    index(tmp_path / "whole")
    path = tmp_path / "list.txt"
    path.write_text("0.jpg")
    line = refused(capsys, "subset", tmp_path / "whole", "--output", tmp_path / "part", "--list", path)
    assert line == f"{path}: '0.jpg' fits samples 0 and 1 of train; write more of the path, or the key"
    path.write_text("dog/0.jpg")
    assert len(subset(tmp_path / "whole", tmp_path / "part", list=path)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--per-class", 21), "class '1' has 20 samples in split train, but 21 of every class are wanted"),
        (("--fraction", 0.9, "--balanced"), "class '1' has 20 samples in split train, but 24 of every class"),
        (("--per-class", 1, "--balanced"), "--balanced: goes with --fraction"),
        (("--per-class", 1, "--split", "test"), "no split 'test'; it has train, val"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], message: str
) -> None:
    assert message in refused(capsys, "subset", whole, "--output", tmp_path / "part", *arguments)
    assert not (tmp_path / "part").exists()


def test_an_empty_class_cannot_be_balanced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "whole" / "x.tar", [*sample("a", 0), *sample("b", 2)])
    index(tmp_path / "whole")
    line = refused(capsys, "subset", tmp_path / "whole", "--output", tmp_path / "part", "--fraction", 0.5, "--balanced")
    assert "class '1' has 0 samples in split train" in line


def test_unlabelled_data_cannot_be_balanced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "whole" / "x.tar", sample("a", None))
    index(tmp_path / "whole")
    assert "samples without labels" in refused(
        capsys, "subset", tmp_path / "whole", "--output", tmp_path / "part", "--per-class", 1
    )


def test_an_output_in_use_is_refused(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "exists and is not an empty directory" in refused(
        capsys, "subset", whole, "--output", whole, "--fraction", 0.5
    )


@pytest.mark.parametrize("text", ["0", "1.1", "-0.5", "nan", "x"])
def test_a_fraction_lies_in_0_to_1(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["subset", "x", "--output", "y", f"--fraction={text}"])
    assert caught.value.code == 2
    assert f"'{text}' is not a number in (0, 1]" in capsys.readouterr().err
