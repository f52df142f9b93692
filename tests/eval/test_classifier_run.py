import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from labelled_training import (
    CPU,
    SMALL,
    MeanColour,
    accelerator,
    answers_by_colour,
    classifier,
    train_in_float64,
    training,
)
from rank_pool import RankPool

from eval.classifier import Classifier, Learner
from eval.classifier_file import Progress, forget_progress, save_progress
from eval.classifier_run import DivergedError, Training, answers, fitting_batch, learn
from eval.errors import EvaluationError
from model.encoder import build_encoder
from pipelines.errors import DataError
from pipelines.label_subsets import balanced_subset, take
from pipelines.manifest import open_split


def trained(how: Training, directory: Path) -> tuple[Classifier, Progress]:
    network = classifier(how.recipe)
    return network, learn(how, network, accelerator(), directory)


def assert_same(a: Classifier, b: Classifier) -> None:
    others = b.state_dict()
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, others[name]), name


def stop_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power fails after another epoch than those that are kept."""
    left = [True] * epochs

    def failing(path: Path, key: str, learner: Learner, progress: Progress) -> None:
        if not left:
            raise KeyboardInterrupt
        save_progress(path, key, learner, progress)
        left.pop()

    monkeypatch.setattr("eval.classifier_run.save_progress", failing)


def test_a_linear_layer_learns_classes_that_differ_in_colour_without_fault(shards: Path, tmp_path: Path) -> None:
    how = training(shards, frozen=True, steps=60, peak_lr=1.0)
    network = classifier(how.recipe, MeanColour())
    progress = learn(how, network, accelerator(), tmp_path)
    test = open_split(shards, "test")
    assert answers(network, test, how, 5, CPU).tolist() == test.samples["label"].tolist()
    assert len(progress.losses) == 15
    assert progress.losses[0] > 1
    assert progress.losses[-1] < 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"frozen": True},
        {"weight_decay": 1e-3, "warmup_steps": 3},
        {"optimizer": "lars", "precision": "bf16", "steps": 13},
    ],
    ids=["frozen", "sgd", "lars"],
)
def test_a_training_that_was_stopped_ends_in_the_same_bits(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    how = training(shards, **changes)

    def network() -> Classifier:
        torch.manual_seed(1)
        encoder = build_encoder(replace(SMALL, arguments={"drop_rate": 0.3}), 16)
        return classifier(how.recipe, encoder)

    whole, stopped, resumed = network(), network(), network()
    wanted = learn(how, whole, accelerator(), tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_after(2, patched)
        learn(how, stopped, accelerator(), tmp_path / "stopped")
    progress = learn(how, resumed, accelerator(), tmp_path / "stopped")
    assert_same(resumed, whole)
    assert progress.losses == wanted.losses
    assert len(wanted.losses) == 4


def test_a_training_goes_on_after_the_last_epoch_that_was_kept(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = training(shards)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_after(3, patched)
        trained(how, tmp_path)
    capsys.readouterr()
    trained(how, tmp_path)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "tiny: goes on after epoch 3 of 4"
    assert last.startswith("tiny: epoch 4 of 4, loss ")


def test_a_training_that_was_finished_is_not_done_again(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = training(shards)
    first, wanted = trained(how, tmp_path)
    monkeypatch.setattr("eval.classifier_run.save_progress", None)  # would be called after an epoch
    again, progress = trained(how, tmp_path)
    assert_same(again, first)
    assert progress == wanted


@pytest.mark.parametrize(
    "changes", [{"peak_lr": 0.05}, {"steps": 20}, {"seed": 1}, {"start": "elsewhere"}, {"frozen": True}], ids=str
)
def test_another_training_does_not_go_on_with_what_was_kept(
    shards: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    trained(training(shards), tmp_path)
    alone, _ = trained(training(shards, **changes), tmp_path / "alone")
    other, progress = trained(training(shards, **changes), tmp_path)
    assert_same(other, alone)
    assert len(progress.losses) == training(shards, **changes).recipe.steps // 4


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_training_whose_file_is_damaged_is_begun_anew(shards: Path, tmp_path: Path, size: int) -> None:
    how = training(shards)
    wanted, _ = trained(how, tmp_path)
    path = how.kept_in(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    again, progress = trained(how, tmp_path)
    assert_same(again, wanted)
    assert len(progress.losses) == 4


def test_what_was_kept_is_removed_with_its_directory_and_nothing_else(shards: Path, tmp_path: Path) -> None:
    directory = tmp_path / "training"
    how = training(shards)
    trained(how, directory)
    other = directory / "other"
    other.touch()
    forget_progress(how.kept_in(directory))
    assert list(directory.iterdir()) == [other]
    other.unlink()
    forget_progress(how.kept_in(directory))
    assert not directory.exists()
    forget_progress(how.kept_in(directory))


def test_a_place_that_cannot_be_written_is_told_in_one_line(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EvaluationError, match=r"tiny.safetensors: cannot be written .*repeat the command"):
        trained(training(shards), tmp_path / "file")


@pytest.mark.parametrize(
    "changes",
    [{"weight_decay": 1e-3}, {"optimizer": "lars", "steps": 6}, {"frozen": True}],
    ids=["sgd", "lars", "frozen"],
)
def test_two_ranks_train_what_one_would_in_float64(
    shards: Path, tmp_path: Path, two_ranks: RankPool, changes: dict[str, Any]
) -> None:
    weights, progress, predictions = train_in_float64(shards, tmp_path / "one", changes)
    for theirs, their_progress, their_predictions in two_ranks.run(train_in_float64, shards, tmp_path / "two", changes):
        for name, tensor in weights.items():
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-9, atol=1e-9, msg=name)
        assert their_progress.losses == pytest.approx(progress.losses, abs=1e-9)
        assert their_predictions == predictions


@pytest.mark.parametrize("images", [7, 1])
def test_answers_come_in_stored_order_from_any_number_of_ranks(shards: Path, two_ranks: RankPool, images: int) -> None:
    alone = answers_by_colour(shards, images)
    assert two_ranks.run(answers_by_colour, shards, images) == [alone, alone]
    assert len(alone) == images
    assert len(set(alone)) > 1 or images == 1


def test_what_one_rank_kept_two_go_on_with(
    shards: Path, tmp_path: Path, two_ranks: RankPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, _, _ = train_in_float64(shards, tmp_path / "whole", {})
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_after(2, patched)
        train_in_float64(shards, tmp_path / "stopped", {})
    for theirs, progress, _ in two_ranks.run(train_in_float64, shards, tmp_path / "stopped", {}):
        assert len(progress.losses) == 4
        for name, tensor in weights.items():
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-9, atol=1e-9, msg=name)


def test_a_last_epoch_that_is_not_whole_has_its_loss_too(shards: Path, tmp_path: Path) -> None:
    _, progress = trained(training(shards, steps=6), tmp_path)
    assert (progress.step, len(progress.losses)) == (6, 2)
    assert all(math.isfinite(loss) for loss in progress.losses)


def test_a_loss_that_is_not_finite_ends_the_training_by_name(shards: Path, tmp_path: Path) -> None:
    how = training(shards, peak_lr=1e30)
    with pytest.raises(DivergedError, match=r"tiny: the loss is not finite after 4 updates .* 1e\+30; choose"):
        trained(how, tmp_path)
    assert not how.kept_in(tmp_path).exists()


def test_a_damaged_image_is_refused_and_not_replaced(shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "data"))
    shard = copy / "train-000001.tar"
    data = bytearray(shard.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 0xFF
    shard.write_bytes(data)
    how = training(copy)
    how = replace(how, data=replace(how.data, bad_sample_budget=0.0))
    with pytest.raises(DataError, match="1 of 64 samples are damaged"):
        trained(how, tmp_path / "kept")


def test_a_part_of_a_split_is_learnt_from_alone(shards: Path, tmp_path: Path) -> None:
    whole = training(shards, steps=4, batch=8)
    part = replace(whole, split=take(whole.split, balanced_subset(whole.split, 0.125, 0)))
    assert (whole.steps_per_epoch, part.steps_per_epoch) == (8, 1)
    assert part.settings["train"] != whole.settings["train"]
    _, progress = trained(part, tmp_path)
    assert len(progress.losses) == 4


@pytest.mark.parametrize(("asked", "samples", "batch"), [(16, 64, 16), (64, 50, 50), (2, 2, 2)])
def test_the_batch_is_at_most_what_there_is(
    asked: int, samples: int, batch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fitting_batch("tiny", asked, samples) == batch
    told = capsys.readouterr().err
    assert told == ("" if batch == asked else "tiny: batches of 50 images, not 64: 50 images on 1 rank\n")


def test_the_batch_is_a_multiple_of_the_ranks(two_ranks: RankPool) -> None:
    assert two_ranks.run(fitting_batch, "tiny", 15, 64) == [14, 14]
    with pytest.raises(RuntimeError, match="tiny: 1 images to learn from, but 2 ranks need at least one image each"):
        two_ranks.run(fitting_batch, "tiny", 16, 1)


@pytest.mark.parametrize(("asked", "samples", "told"), [(16, 1, "1 images to learn from"), (1, 64, "a batch of 1")])
def test_a_batch_of_one_is_refused(asked: int, samples: int, told: str) -> None:
    with pytest.raises(EvaluationError, match=f"tiny: {told}, but an update needs two images"):
        fitting_batch("tiny", asked, samples)
