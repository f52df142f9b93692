import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_shards import tiny_shards

from pipelines.errors import DataError
from pipelines.manifest import open_split, read_manifest


@pytest.fixture
def data(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "data"))


def test_a_split_opens_with_its_samples(shards: Path) -> None:
    split = open_split(shards, "train")
    assert len(split) == 64
    assert split.samples_per_shard.sum() == 64
    assert set(split.samples["label"]) == {0, 1, 2, 3}


def test_the_fingerprint_tells_data_apart_but_not_places(data: Path, shards: Path, tmp_path: Path) -> None:
    assert read_manifest(data).fingerprint == read_manifest(shards).fingerprint
    other = tiny_shards(tmp_path / "other", side=16)
    assert read_manifest(other).fingerprint != read_manifest(shards).fingerprint


def spoil_manifest(data: Path) -> str:
    (data / "manifest.json").write_text("{")
    return "manifest.json: cannot be read"


def remove_manifest(data: Path) -> str:
    (data / "manifest.json").unlink()
    return "manifest.json: no such file"


def age_manifest(data: Path) -> str:
    content = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps(content | {"version": 0}))
    return "format version 0, this program reads 2"


def strip_manifest(data: Path) -> str:
    content = json.loads((data / "manifest.json").read_text())
    del content["splits"]
    (data / "manifest.json").write_text(json.dumps(content))
    return "malformed manifest (KeyError: 'splits')"


def other_json(data: Path) -> str:
    (data / "manifest.json").write_text("[]")
    return "not a manifest of Diptych shards"


def remove_shard(data: Path) -> str:
    (data / "train-000001.tar").unlink()
    return "train-000001.tar: No such file or directory"


def cut_shard(data: Path) -> str:
    shard = data / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    return "train-000001.tar: "


def edit_index(data: Path) -> str:
    index = np.load(data / "train.index.npy")
    index["offset"][3] += 1
    np.save(data / "train.index.npy", index)
    return "train.index.npy: does not match manifest.json"


def remove_index(data: Path) -> str:
    (data / "train.index.npy").unlink()
    return "train.index.npy: No such file or directory"


@pytest.mark.parametrize(
    "damage",
    [
        spoil_manifest,
        remove_manifest,
        age_manifest,
        strip_manifest,
        other_json,
        remove_shard,
        cut_shard,
        edit_index,
        remove_index,
    ],
)
def test_a_directory_that_does_not_match_its_manifest_is_refused(data: Path, damage: Callable[[Path], str]) -> None:
    expected = damage(data)
    with pytest.raises(DataError) as caught:
        open_split(data, "train")
    assert expected in str(caught.value)
    assert str(data) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_split_is_told_with_the_known_ones(shards: Path) -> None:
    with pytest.raises(DataError, match="no split 'val'; it has test, train"):
        open_split(shards, "val")
