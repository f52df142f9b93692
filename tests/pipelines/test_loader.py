import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_shards import tiny_image, tiny_shards

from pipelines.augment import TwoViews
from pipelines.config import DataConfig, ViewsConfig
from pipelines.decode import Decoder, UndecodableBatchError
from pipelines.errors import DataError
from pipelines.evaluation_loader import evaluation_batches
from pipelines.loader import Batch, Share, training_batches
from pipelines.manifest import SplitIndex, open_split
from pipelines.store import Store

CPU = torch.device("cpu")


@pytest.fixture
def train(shards: Path) -> SplitIndex:
    return open_split(shards, "train")


@pytest.fixture
def own_train(shards: Path, tmp_path: Path) -> SplitIndex:
    """A copy that the test may damage."""
    return open_split(Path(shutil.copytree(shards, tmp_path / "data")), "train")


def batches(split: SplitIndex, **changes: Any) -> Iterator[Batch]:
    data = DataConfig(canvas=32, bad_sample_budget=changes.pop("budget", 0.1))
    share = Share(**{"global_batch": 8, "seed": 0, "last_step": 8} | changes)
    return training_batches(split, data, ViewsConfig(size=32), share, CPU)


def damage(split: SplitIndex, sample: int, data: bytes | None = None) -> None:
    """Overwrite the middle of an image, or all of it, in its shard."""
    record = split.samples[sample]
    with (Path(split.location) / split.shards[record["shard"]].file).open("r+b") as shard:
        shard.seek(int(record["offset"]) + (0 if data else int(record["size"]) // 2))
        shard.write(data or b"damage")


def test_batches_hold_the_pixels_and_labels_of_their_samples(train: SplitIndex) -> None:
    for batch in batches(train, last_step=2):
        for canvas, sample, label in zip(batch.canvas, batch.sample_id.tolist(), batch.label.tolist(), strict=True):
            assert label == sample % 4
            assert (canvas.permute(1, 2, 0).numpy() == tiny_image("train", sample, label, 32, 32)).all()


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_global_batches_of_one_process(train: SplitIndex, world_size: int) -> None:
    alone = [batch.sample_id for batch in batches(train)]
    ranks = [[b.sample_id for b in batches(train, rank=r, world_size=world_size)] for r in range(world_size)]
    for step, whole in enumerate(alone):
        assert torch.equal(torch.cat([rank[step] for rank in ranks]), whole)


def test_starting_at_a_step_equals_continuing_to_it(train: SplitIndex) -> None:
    whole = list(batches(train, last_step=20))[11:]
    resumed = list(batches(train, first_step=11, last_step=20))
    assert [b.step for b in resumed] == [b.step for b in whole] == list(range(11, 20))
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a.sample_id, b.sample_id)
        assert torch.equal(a.canvas, b.canvas)
        assert torch.equal(a.plan.numbers, b.plan.numbers)


@pytest.mark.parametrize(
    "views",
    [
        ViewsConfig(size=16),
        ViewsConfig(size=16, reference="torchvision", engine="kornia", jitter_strength=0.5),
        ViewsConfig(size=16, interpolation="bicubic", rotation_probability=0.5, noise_probability=0.5),
        ViewsConfig(size=16, crop="source", interpolation="bicubic"),
    ],
    ids=["lean", "kornia", "study", "source"],
)
def test_one_view_per_image_is_the_first_of_two(train: SplitIndex, views: ViewsConfig) -> None:
    share = Share(global_batch=12, seed=0, last_step=3)
    make, data = TwoViews(views), DataConfig(canvas=32, cache="none")
    one, two = (training_batches(train, data, views, share, CPU, views_per_image=count) for count in (1, 2))
    for single, double in zip(one, two, strict=True):
        assert len(single.draws) == len(single.plan) == 12
        assert torch.equal(single.sample_id, double.sample_id)
        both = make(double.canvas, double.plan)
        assert torch.equal(make(single.canvas, single.plan), both[:12])
        assert not torch.equal(both[:12], both[12:])


def test_an_epoch_holds_no_sample_twice(train: SplitIndex) -> None:
    ids = torch.cat([batch.sample_id for batch in batches(train)])
    assert len(ids.unique()) == 64


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_damaged_sample_is_replaced_counted_and_logged(
    own_train: SplitIndex, world_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    damage(own_train, 13)
    sound = torch.stack([b.sample_id for b in batches(open_split(own_train.location, "train"))])
    ranks = [list(batches(own_train, rank=r, world_size=world_size)) for r in range(world_size)]
    ids = torch.stack([torch.cat([rank[step].sample_id for rank in ranks]) for step in range(8)])
    skipped = [skip for rank in ranks for batch in rank for skip in batch.skipped]
    assert [(skip.sample_id, skip.reason) for skip in skipped] == [(13, "checksum")]
    assert 13 not in ids
    assert (ids != sound).sum() <= 1
    assert all(len(row.unique()) == 8 for row in ids)
    assert f"{own_train.shards[0].file} at byte" in caplog.text


def test_an_image_that_passes_its_checksum_but_does_not_decode_is_replaced(tmp_path: Path) -> None:
    directory = tiny_shards(tmp_path / "data", images_per_class=16, classes=4, side=32)
    split = open_split(directory, "train")
    size = int(split.samples[20]["size"])
    damage(split, 20, b"\x89PNG\r\n\x1a\n" + bytes(size - 8))
    split.samples["crc32"][20] = zlib.crc32(b"\x89PNG\r\n\x1a\n" + bytes(size - 8))
    found = list(batches(split))
    assert [(s.sample_id, s.reason) for b in found for s in b.skipped] == [(20, "undecodable")]
    assert 20 not in torch.cat([b.sample_id for b in found])


def test_too_many_damaged_samples_stop_the_run(own_train: SplitIndex) -> None:
    for sample in range(5):
        damage(own_train, sample)
    with pytest.raises(DataError, match=r"\(4 checksum\), more than data.bad_sample_budget = 0.05 allows"):
        list(batches(own_train, budget=0.05))


def test_a_damaged_sample_without_a_replacement_stops_the_run(own_train: SplitIndex) -> None:
    damage(own_train, 3)
    with pytest.raises(DataError, match="checksum, and no sample is left to replace it"):
        list(batches(own_train, global_batch=64, last_step=1))


def test_evaluation_covers_a_split_in_order_with_its_tail(shards: Path) -> None:
    split = open_split(shards, "test")
    found = list(evaluation_batches(split, DataConfig(canvas=32), 24, CPU))
    assert [len(batch.canvas) for batch in found] == [24, 24, 16]
    assert torch.cat([batch.label for batch in found]).tolist() == split.samples["label"].tolist()


def test_evaluation_refuses_a_damaged_sample(own_train: SplitIndex) -> None:
    damage(own_train, 40)
    with pytest.raises(DataError, match="sample 40 of split train"):
        list(evaluation_batches(own_train, DataConfig(canvas=32), 16, CPU))


def test_a_shard_that_shrinks_while_in_use_is_told_as_truncated(own_train: SplitIndex) -> None:
    store = Store(own_train, DataConfig())
    store.read(np.array([0]))
    shard = Path(own_train.location) / own_train.shards[0].file
    with shard.open("r+b") as file:
        file.truncate(int(own_train.samples[10]["offset"]) + 5)
    assert store.read(np.array([10, 0])).reasons == {0: "truncated"}
    store.close()


def test_a_shard_that_disappears_is_told_as_unreadable(own_train: SplitIndex) -> None:
    (Path(own_train.location) / own_train.shards[1].file).unlink()
    assert Store(own_train, DataConfig()).read(np.array([len(own_train) - 1])).reasons == {0: "unreadable"}


def test_other_sizes_are_resized_antialiased_onto_the_canvas(tmp_path: Path) -> None:
    directory = tiny_shards(tmp_path / "data", classes=2, encoding="jpg", size=lambda i: (40 + i, 60))
    split = open_split(directory, "train")
    (batch,) = evaluation_batches(split, DataConfig(canvas=16), 8, CPU)
    assert batch.canvas.shape == (8, 3, 16, 16)
    assert batch.height.tolist() == [40 + i for i in range(8)]
    mean = tiny_image("train", 0, 0, 40, 60).mean(axis=(0, 1))
    assert np.abs(batch.canvas[0].float().mean(dim=(1, 2)).numpy() - mean).max() < 3


def test_a_decoder_lives_on_after_a_batch_that_it_could_not_decode(train: SplitIndex) -> None:
    (good,) = Store(train, DataConfig()).read(np.array([0])).images
    bad = memoryview(b"no image at all")
    decoder = Decoder(32, 4, 1, CPU, resize=False)
    with pytest.raises(UndecodableBatchError):
        decoder.decode([good, bad, good])
    assert decoder.undecodable([good, bad, good, bad]) == [1, 3]
    assert decoder.decode([good]).shape == (1, 3, 32, 32)
