from pathlib import Path

import pytest
import torch
from evaluation_on_ranks import kept_features
from rank_pool import RankPool

from eval.errors import EvaluationError
from eval.feature_files import load_features, save_features
from eval.features import LabelledFeatures
from pipelines.manifest import SplitIndex, open_split


@pytest.fixture
def train(shards: Path) -> SplitIndex:
    return open_split(shards, "train")


def some(split: SplitIndex) -> LabelledFeatures:
    labels = torch.from_numpy(split.samples["label"].astype("int64"))
    return LabelledFeatures(features=torch.randn(len(split), 5, generator=torch.manual_seed(0)), labels=labels)


def test_what_was_kept_comes_back(train: SplitIndex, tmp_path: Path) -> None:
    features, path = some(train), tmp_path / "features" / "train-encoder.safetensors"
    save_features(path, "key", train, features)
    loaded = load_features(path, "key", train)
    assert loaded is not None
    assert torch.equal(loaded.features, features.features)
    assert torch.equal(loaded.labels, features.labels)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_features_of_another_key_are_not_used(train: SplitIndex, tmp_path: Path) -> None:
    save_features(tmp_path / "x.safetensors", "key", train, some(train))
    assert load_features(tmp_path / "x.safetensors", "another", train) is None


@pytest.mark.parametrize("kept", [0, 7, 200])
def test_half_a_file_is_not_used(train: SplitIndex, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.safetensors"
    save_features(path, "key", train, some(train))
    path.write_bytes(path.read_bytes()[:kept])
    assert load_features(path, "key", train) is None


def test_a_place_that_cannot_be_written_is_named(train: SplitIndex, tmp_path: Path) -> None:
    (tmp_path / "features").write_text("in the way")
    path = tmp_path / "features" / "x.safetensors"
    with pytest.raises(
        EvaluationError, match=r"x\.safetensors: cannot be written .*; make room and repeat the command"
    ):
        save_features(path, "key", train, some(train))


def test_two_ranks_keep_what_one_would_and_one_reads_what_two_kept(
    shards: Path, tmp_path: Path, two_ranks: RankPool, train: SplitIndex
) -> None:
    alone, read, other_is_none = kept_features(str(shards), str(tmp_path / "one.safetensors"))
    assert torch.equal(alone, read)
    assert other_is_none
    for extracted, loaded, none in two_ranks.run(kept_features, str(shards), str(tmp_path / "two.safetensors")):
        torch.testing.assert_close(extracted, alone)
        assert torch.equal(loaded, extracted)
        assert none
    by_one = load_features(tmp_path / "two.safetensors", "key", train)
    assert by_one is not None
    torch.testing.assert_close(by_one.features, alone)
