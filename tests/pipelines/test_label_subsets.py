"""Part of a split's labels: balanced, nested, and read like any split."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_shards import sample, write_shard
from hypothesis import given
from hypothesis import strategies as st
from indexing import index
from remote_servers import http_directory
from tiny_shards import tiny_shards

from pipelines.config import DataConfig, ViewsConfig
from pipelines.errors import DataError
from pipelines.evaluation_loader import evaluation_batches
from pipelines.label_subsets import balanced_subset, listed_subset, take
from pipelines.loader import Share, training_batches
from pipelines.manifest import INDEX_DTYPE, Manifest, Shard, Split, SplitIndex, open_split
from pipelines.order import epoch_order
from pipelines.tools.subset import SubsetOptions, write_subset

CPU = torch.device("cpu")
label_lists = st.lists(st.integers(1, 30), min_size=1, max_size=8).flatmap(
    lambda sizes: st.permutations([label for label, size in enumerate(sizes) for _ in range(size)])
)
shares = st.floats(0.001, 1)
seeds = st.integers(0, 2**64 - 1)


def labelled(labels: Sequence[int], classes: int | None = None) -> SplitIndex:
    """A split of which only the labels matter."""
    samples = np.zeros(len(labels), dtype=INDEX_DTYPE)
    samples["label"] = labels
    shards = (Shard(file="train-0.tar", bytes=0, samples=len(labels), sha256=""),)
    split = Split(samples=len(labels), index_file="train.index.npy", index_sha256="", shards=shards)
    names = tuple(f"class{label}" for label in range(max(labels) + 1 if classes is None else classes))
    manifest = Manifest(name="x", classes=names, splits={"train": split}, statistics={}, made={})
    return SplitIndex(name="train", location="somewhere", manifest=manifest, shards=shards, samples=samples)


@given(label_lists, shares, seeds)
def test_classes_are_as_equal_as_their_sizes_allow(labels: list[int], share: float, seed: int) -> None:
    rows = balanced_subset(labelled(labels), share, seed)
    present, chosen = np.bincount(labels), np.bincount(np.array(labels)[rows], minlength=max(labels) + 1)
    assert len(rows) == len(set(rows.tolist())) == max(len(present), round(share * len(labels)))
    assert chosen.min() >= 1
    assert (np.diff(rows) > 0).all()
    unexhausted = chosen[chosen < present]
    if len(unexhausted):
        assert chosen.max() - unexhausted.min() <= 1


@given(label_lists, shares, shares, seeds)
def test_a_smaller_share_lies_within_a_larger_one_of_the_same_seed(
    labels: list[int], one: float, other: float, seed: int
) -> None:
    split = labelled(labels)
    small, large = (set(balanced_subset(split, share, seed).tolist()) for share in sorted((one, other)))
    assert small <= large


@given(label_lists, seeds)
def test_all_labels_are_all_rows(labels: list[int], seed: int) -> None:
    assert balanced_subset(labelled(labels), 1, seed).tolist() == list(range(len(labels)))


def test_one_per_cent_of_imagenet_is_12_or_13_images_of_each_class() -> None:
    labels = np.arange(1_281_167) % 1000
    chosen = np.bincount(labels[balanced_subset(labelled(labels.tolist()), 0.01, 0)], minlength=1000)
    assert np.bincount(chosen).tolist() == [0] * 12 + [1000 - 812, 812]


def test_the_choice_depends_on_labels_share_and_seed_alone() -> None:
    labels = [number * 7919 // 13 % 5 for number in range(500)]
    rows = balanced_subset(labelled(labels), 0.02, 7)
    assert rows.tolist() == [65, 86, 99, 113, 136, 185, 251, 282, 324, 356]  # of another machine and year, too
    elsewhere = replace(labelled(labels), name="test", location="elsewhere")
    assert balanced_subset(elsewhere, 0.02, 7).tolist() == rows.tolist()
    assert balanced_subset(labelled(labels), 0.02, 8).tolist() != rows.tolist()


def test_every_image_is_about_equally_likely() -> None:
    split = labelled([label for label in range(4) for _ in range(25)])
    times = np.bincount(np.concatenate([balanced_subset(split, 0.2, seed) for seed in range(1000)]), minlength=100)
    # Binomial, 1000 draws at 0.2: standard deviation 12.6; four and a half of them over a hundred images.
    assert np.abs(times - 200).max() < 57


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, 10, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(DataError, match=rf"^share of labels {share}: not in \(0, 1\]; 1 % is 0.01$"):
        balanced_subset(labelled([0, 1]), share, 0)


def test_an_empty_class_is_named() -> None:
    with pytest.raises(DataError, match=r"^somewhere: class 'class1' has no image in split train, so no subset"):
        balanced_subset(labelled([0, 0, 2]), 0.5, 0)


def test_unlabelled_samples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a\n")
    unlabelled = [labelled([0, 1, -1]), labelled([-1, -1], classes=0)]
    for split in unlabelled:
        message = "^somewhere: split train has samples without labels"
        with pytest.raises(DataError, match=message):
            balanced_subset(split, 0.5, 0)
        with pytest.raises(DataError, match=message):
            listed_subset(split, path)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 6 samples that know their original names, in 3 classes, and one of val."""
    directory = tmp_path_factory.mktemp("named") / "data"
    for shard in range(2):
        members = []
        for number in range(6):
            image, cls, _ = sample(f"{shard}{number}", number % 3)
            name = f"train/n{number % 3:08d}/n{number % 3:08d}_{shard}{number}.JPEG"
            members += [image, cls, (f"{shard}{number}.json", json.dumps({"name": name}).encode())]
        write_shard(directory / f"train-{shard}.tar", members)
    write_shard(directory / "val-0.tar", [member for n in range(3) for member in sample(f"v{n}", n)])
    index(directory)
    return directory


def test_a_list_names_samples_by_original_file_name_or_key(named: Path, tmp_path: Path) -> None:
    split, path = open_split(named, "train"), tmp_path / "1percent.txt"
    path.write_text("n00000001_14.JPEG\nn00000002_02.JPEG\n")
    assert listed_subset(split, path).tolist() == [2, 10]
    path.write_text("14\n02\n")
    assert listed_subset(split, path).tolist() == [2, 10]


def test_names_that_the_split_lacks_are_counted_and_shown(named: Path, tmp_path: Path) -> None:
    split, path = open_split(named, "train"), tmp_path / "1percent.txt"
    path.write_text("\n".join(["n00000002_02.JPEG", *(f"n9_{number}.JPEG" for number in range(1234))]))
    with pytest.raises(DataError) as caught:
        listed_subset(split, path)
    assert str(caught.value) == (
        f"{path}: 1,234 of 1,235 names are not in split train of {named}, such as n9_0.JPEG, n9_1.JPEG, n9_2.JPEG"
    )


def test_a_list_that_is_not_there_is_one_line(named: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt: No such file or directory; name a text file with one file name"):
        listed_subset(open_split(named, "train"), tmp_path / "none.txt")


def test_a_part_has_the_fingerprint_that_it_has_when_it_is_written(named: Path, tmp_path: Path) -> None:
    path, split = tmp_path / "list.txt", open_split(named, "train")
    path.write_text("02\n13\n14\n")
    write_subset(SubsetOptions(directory=str(named), output=tmp_path / "part", list=path))
    written, taken = open_split(tmp_path / "part", "train"), take(split, listed_subset(split, path))
    assert taken.manifest.fingerprint == written.manifest.fingerprint != split.manifest.fingerprint
    assert (taken.samples == written.samples).all()
    assert taken.manifest.splits["val"] == split.manifest.splits["val"]


@given(st.lists(st.integers(1, 10), min_size=1, max_size=6), st.data())
def test_a_part_counts_its_samples_through_the_shards_that_are_left(counts: list[int], data: st.DataObject) -> None:
    split = labelled([0] * sum(counts))
    split.samples["shard"] = np.repeat(np.arange(len(counts)), counts)
    split.samples["offset"] = np.arange(len(split))
    shards = tuple(Shard(file=f"{n}.tar", bytes=n, samples=count, sha256=str(n)) for n, count in enumerate(counts))
    split = replace(split, shards=shards)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, len(split) - 1), min_size=1))))
    part = take(split, rows)
    assert len(part) == part.manifest.splits["train"].samples == part.samples_per_shard.sum() == len(rows)
    assert part.manifest.splits["train"].shards == part.shards
    assert part.samples["offset"].tolist() == rows.tolist()
    assert (np.diff(part.samples["shard"].astype(int)) >= 0).all()
    assert np.bincount(part.samples["shard"]).tolist() == part.samples_per_shard.tolist()
    where = [split.shards[shard].file for shard in split.samples["shard"][rows]]
    assert [part.shards[shard].file for shard in part.samples["shard"]] == where
    assert sorted(epoch_order(part.samples_per_shard, 2, 0, 0).tolist()) == list(range(len(rows)))
    assert split.samples["shard"].tolist() == np.repeat(np.arange(len(counts)), counts).tolist()  # left as it was


@pytest.mark.parametrize("rows", [[], [3, 2], [2, 2]])
def test_rows_that_do_not_rise_are_refused(rows: list[int]) -> None:
    with pytest.raises(ValueError, match="rows of split train: expected at least one, each above the last"):
        take(labelled([0, 1, 2, 3]), np.array(rows, dtype=np.int64))


def pixels_by_row(split: SplitIndex, data: DataConfig) -> torch.Tensor:
    """(N, 3, S, S) of every sample."""
    return torch.cat([batch.canvas for batch in evaluation_batches(split, data, 8, CPU)])


def test_evaluation_and_training_read_the_samples_of_the_part(shards: Path, tmp_path: Path) -> None:
    whole = open_split(shards, "train")
    rows = balanced_subset(whole, 0.25, 1)
    part, data = take(whole, rows), DataConfig(canvas=32, window_shards=1, cache="none")
    pixels = pixels_by_row(whole, data)[torch.from_numpy(rows)]
    assert torch.equal(pixels_by_row(part, data), pixels)
    share = Share(global_batch=4, seed=3, last_step=4)
    batches = list(training_batches(part, data, ViewsConfig(size=16), share, CPU))
    seen = torch.cat([batch.sample_id for batch in batches])
    assert sorted(seen.tolist()) == list(range(16))
    assert torch.equal(torch.cat([batch.canvas for batch in batches]), pixels[seen])
    assert torch.cat([batch.label for batch in batches]).tolist() == part.samples["label"][seen].tolist()


def test_canvases_of_the_whole_on_the_disk_are_not_taken_for_those_of_the_part(shards: Path, tmp_path: Path) -> None:
    whole = open_split(shards, "train")
    part = take(whole, np.arange(1, len(whole), 2))
    share = Share(global_batch=8, seed=3, last_step=4)

    def canvases(split: SplitIndex, data: DataConfig) -> torch.Tensor:
        return torch.cat([batch.canvas for batch in training_batches(split, data, ViewsConfig(size=16), share, CPU)])

    kept = DataConfig(canvas=32, cache="disk", cache_dir=str(tmp_path))
    canvases(whole, kept)
    bare = canvases(part, replace(kept, cache="none"))
    assert torch.equal(canvases(part, kept), bare)
    assert torch.equal(canvases(part, kept), bare)  # from the disk


def test_a_part_of_remote_shards_fetches_those_that_it_needs(tmp_path: Path) -> None:
    directory = tiny_shards(tmp_path / "data", images_per_class=8, side=32)
    with http_directory(directory) as server:
        whole = open_split(server.url, "train")
        part = take(whole, np.arange(8, 16))  # all of the second shard
        data = DataConfig(canvas=32, cache="none", cache_dir=str(tmp_path / "cache"))
        assert torch.equal(pixels_by_row(part, data), pixels_by_row(open_split(directory, "train"), data)[8:])
    copies = [path.read_bytes() for path in (tmp_path / "cache" / "shards").rglob("*") if path.stat().st_size > 1000]
    digests = [hashlib.sha256(copy).hexdigest() for copy in copies]
    assert digests == [whole.shards[1].sha256]
