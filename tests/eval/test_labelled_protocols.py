"""The protocols that train with labels, from a run directory to scores."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import begun, rename, tiny_run
from tiny_shards import tiny_shards

from eval.classifier import Classifier
from eval.classifier_file import Progress
from eval.classifier_run import Training, answers, learn
from eval.classifier_score import crop_flip_views, own_encoder, part_of_labels
from eval.config import EvaluationDataConfig
from eval.controls import random_encoder
from eval.errors import EvaluationError
from eval.features import FrozenEncoder
from eval.finetune import score_finetune
from eval.linear_sgd import score_linear_sgd
from eval.pretrained_head import first_head_layer, pretrained_head
from eval.supervised import score_supervised
from eval.training_config import FinetuneConfig, LinearSgdConfig, SupervisedConfig, TransferConfig
from eval.transfer import score_transfer
from model.config import HeadConfig
from model.heads import build_head
from pipelines.draws import draw_views
from pipelines.manifest import SplitIndex
from train.checkpoint import load_latest

QUICK: dict[str, Any] = {"precision": "fp32", "batch": 16}


@pytest.fixture
def run_dir(tmp_path: Path, shards: Path) -> Path:
    return tiny_run(tmp_path / "run", shards)


def scores(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Of results.json, by variant or protocol."""
    content = json.loads((run_dir / "eval" / "results.json").read_text())
    return {score["variant"] or score["protocol"]: score for score in content["scores"]}


def test_linear_sgd_is_scored_and_leaves_nothing_but_results(run_dir: Path) -> None:
    config = LinearSgdConfig(**QUICK, epochs=3, base_lr=1.6)
    score_linear_sgd(*begun(run_dir, linear_sgd=config))
    (score,) = scores(run_dir).values()
    assert (score["protocol"], score["representation"], score["n_train"], score["n_test"]) == (
        "linear_sgd",
        "encoder",
        64,
        64,
    )
    details = score["details"]
    assert (details["epochs"], details["steps"], details["batch"]) == (3, 12, 16)
    assert details["peak_lr"] == pytest.approx(0.1)
    assert len(details["losses"]) == 3
    assert sorted(path.name for path in (run_dir / "eval").iterdir()) == ["predictions", "results.json"]


def test_fine_tuning_is_scored_for_each_share_of_the_labels(run_dir: Path) -> None:
    config = FinetuneConfig(**QUICK, fractions="0.125,1", epochs="4,2")
    score_finetune(*begun(run_dir, finetune=config))
    few, everything = (scores(run_dir)[variant] for variant in ("12.5 %", "100 %"))
    assert (few["n_train"], everything["n_train"]) == (8, 64)
    assert (few["details"]["batch"], few["details"]["steps"]) == (8, 4)
    assert (everything["details"]["batch"], everything["details"]["steps"]) == (16, 8)
    assert few["details"]["peak_lr"] == pytest.approx(0.05 * 8 / 256)


def test_a_score_that_is_there_is_not_computed_again(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FinetuneConfig(**QUICK, fractions="0.5", epochs="1")
    score_finetune(*begun(run_dir, finetune=config))
    monkeypatch.setattr("eval.classifier_score.learn", None)
    score_finetune(*begun(run_dir, finetune=config))
    with pytest.raises(TypeError):
        score_finetune(*begun(run_dir, finetune=replace(config, epochs="2")))


def test_the_encoder_that_learns_is_a_copy_of_the_one_that_is_frozen(run_dir: Path) -> None:
    evaluation, _ = begun(run_dir)
    FrozenEncoder(evaluation.encoder, evaluation.description, evaluation.device)
    ours = own_encoder(evaluation, pretrained=True)
    assert all(parameter.requires_grad for parameter in ours.parameters())
    assert ours.training
    theirs = evaluation.encoder.state_dict()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs[name])
        assert tensor.data_ptr() != theirs[name].data_ptr() or not tensor.numel()


def test_the_supervised_network_starts_from_the_random_weights_of_the_run(run_dir: Path) -> None:
    evaluation, _ = begun(run_dir)
    ours = own_encoder(evaluation, pretrained=False).state_dict()
    random = random_encoder(evaluation.description.encoder, 16, seed=3).state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in random.items())
    assert not torch.equal(ours["conv1.weight"], evaluation.encoder.conv1.weight)


def test_learning_sees_crops_and_flips_and_no_other_change(run_dir: Path) -> None:
    views = crop_flip_views(begun(run_dir)[0])
    assert (views.size, views.reference, views.crop_area_min, views.crop_area_max) == (16, "torchvision", 0.08, 1.0)
    many = np.arange(1000)
    draws = draw_views(views, many, 0 * many + 32, 0 * many + 32, seed=0, epoch=0)
    for unused in (draws.jitter, draws.grayscale, draws.blur, draws.sobel, draws.noise, draws.cutout):
        assert not unused.any()
    assert 0.4 < draws.flip.mean() < 0.6
    assert (draws.box[:, 2:] < 0.9).any()


def test_finetune_v2_keeps_the_first_layer_of_the_head_as_it_was_trained(run_dir: Path) -> None:
    evaluation, book = begun(run_dir, finetune=FinetuneConfig(**QUICK, fractions="0.5", epochs="2", recipe="v2"))
    checkpoint = load_latest(run_dir / "checkpoints")
    assert checkpoint is not None
    head = build_head(HeadConfig(dim=8, layers=3), 32)
    head.load_state_dict({name[5:]: tensor for name, tensor in checkpoint.model.items() if name.startswith("head.")})
    h = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first_head_layer(evaluation).eval()(h), head.eval()[:3](h))
    assert torch.equal(pretrained_head(evaluation)(h), head(h))
    score_finetune(evaluation, book)
    score = scores(run_dir)["50 % v2"]
    assert score["details"]["optimizer"] == "lars"
    assert score["details"]["peak_lr"] == pytest.approx(0.005 * 4)


@pytest.mark.parametrize("kind", ["linear", "none"])
def test_finetune_v2_refuses_a_head_without_a_hidden_layer(tmp_path: Path, shards: Path, kind: Any) -> None:
    run_dir = tiny_run(tmp_path / "run", shards, HeadConfig(kind=kind))
    with pytest.raises(EvaluationError, match=f"head.kind = {kind} has no hidden layer to keep; use recipe v1"):
        score_finetune(*begun(run_dir, finetune=FinetuneConfig(recipe="v2")))


def test_finetune_v2_refuses_an_encoder_alone_and_checkpoints_that_are_not_its(tmp_path: Path, shards: Path) -> None:
    run_dir = tiny_run(tmp_path / "run", shards, checkpoint_step=11)
    config = FinetuneConfig(recipe="v2")
    with pytest.raises(EvaluationError, match="the last checkpoint is of step 11, the encoder of step 12; resume"):
        score_finetune(*begun(run_dir, finetune=config))
    evaluation, book = begun(run_dir / "encoder", finetune=config, data=EvaluationDataConfig(dir=str(shards)))
    with pytest.raises(EvaluationError, match=r"an encoder alone, without the head .*; give the run directory"):
        score_finetune(evaluation, book)
    for path in sorted((run_dir / "checkpoints").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with pytest.raises(EvaluationError, match="checkpoints: no checkpoint, which alone has the head"):
        score_finetune(*begun(run_dir, finetune=config))


def test_the_images_of_a_list_are_learnt_from_and_no_others(run_dir: Path, tmp_path: Path) -> None:
    names = tmp_path / "few.txt"
    names.write_text("".join(f"{row:06d}\n" for row in (1, 2, 3, 4, 40)))
    evaluation, book = begun(run_dir, finetune=FinetuneConfig(**QUICK, fractions="0.08", epochs="1", lists=str(names)))
    part, whole = part_of_labels(evaluation, 0.08, str(names)), evaluation.subject.train
    assert part.samples["crc32"].tolist() == whole.samples["crc32"][[1, 2, 3, 4, 40]].tolist()
    score_finetune(evaluation, book)
    assert scores(run_dir)["8 %"]["n_train"] == 5


def test_a_list_that_leaves_out_a_class_is_refused_by_its_name(run_dir: Path, tmp_path: Path) -> None:
    names = tmp_path / "few.txt"
    names.write_text("000000\n000001\n000004\n")
    config = FinetuneConfig(fractions="0.05", lists=str(names))
    with pytest.raises(EvaluationError, match=r"few\.txt: names no image of class2, class3; each class"):
        score_finetune(*begun(run_dir, finetune=config))


def test_the_same_images_are_chosen_for_fine_tuning_and_for_the_baseline(run_dir: Path) -> None:
    evaluation, book = begun(
        run_dir,
        finetune=FinetuneConfig(**QUICK, fractions="0.25", epochs="1"),
        supervised=SupervisedConfig(**QUICK, fractions="0.25,1", epochs=""),
    )
    part = part_of_labels(evaluation, 0.25, "")
    assert np.bincount(part.samples["label"]).tolist() == [4, 4, 4, 4]
    score_supervised(evaluation, book)
    few, everything = (scores(run_dir)[variant] for variant in ("25 %", "100 %"))
    assert (few["n_train"], everything["n_train"]) == (16, 64)
    assert (few["details"]["epochs"], everything["details"]["epochs"]) == (30, 2)  # the run has 2
    assert few["details"]["losses"][-1] < few["details"]["losses"][0]


def test_the_baseline_may_see_the_views_of_pretraining(run_dir: Path) -> None:
    config = SupervisedConfig(**QUICK, epochs="1", augmentation="run")
    score_supervised(*begun(run_dir, supervised=config))
    assert list(scores(run_dir)) == ["100 % pretraining's views"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, r"supervised.epochs: the default for all labels is the run's"),
        ({"epochs": "3", "augmentation": "run"}, r"supervised.augmentation = run: an encoder alone has no run"),
    ],
)
def test_what_only_a_run_knows_is_asked_for_where_there_is_none(
    run_dir: Path, shards: Path, fields: dict[str, Any], told: str
) -> None:
    config, data = SupervisedConfig(**fields), EvaluationDataConfig(dir=str(shards))
    with pytest.raises(EvaluationError, match=told):
        score_supervised(*begun(run_dir / "encoder", supervised=config, data=data))


def transferred(run_dir: Path, *directories: Path, **fields: Any) -> dict[str, dict[str, Any]]:
    dirs = ",".join(map(str, directories))
    usual = {"steps": 8, "learning_rates": "0.1"}
    score_transfer(*begun(run_dir, transfer=TransferConfig(**QUICK | usual | fields | {"dirs": dirs})))
    return scores(run_dir)


def test_transfer_is_scored_linear_and_fine_tuned_by_each_data_sets_own_metric(run_dir: Path, tmp_path: Path) -> None:
    pets = rename(tiny_shards(tmp_path / "pets", 8, 3, side=32), "pets", metric="mean_per_class")
    cars = rename(tiny_shards(tmp_path / "cars", 8, 2, side=32), "cars")
    found = transferred(run_dir, pets, cars)
    assert list(found) == ["pets linear", "pets finetune", "cars linear", "cars finetune"]
    assert [score["metric"] for score in found.values()] == ["mean_per_class", "mean_per_class", "top1", "top1"]
    assert [score["n_train"] for score in found.values()] == [24, 24, 16, 16]
    assert found["pets linear"]["value"] == 1.0  # its classes are colours
    assert found["pets finetune"]["details"]["steps"] == 8
    assert not (run_dir / "eval" / "training").exists()


def test_the_learning_rate_is_the_one_that_does_best_on_images_held_out(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pets = rename(tiny_shards(tmp_path / "pets", 8, 2, side=32), "pets")

    def made_up(_: Classifier, test: SplitIndex, training: Training, *others: Any) -> torch.Tensor:
        label = torch.from_numpy(test.samples["label"].astype(np.int64))
        best = (training.recipe.peak_lr, training.recipe.weight_decay) == (0.02, 0.5)
        return label if best or len(test) > 2 else 1 - label

    monkeypatch.setattr("eval.transfer.answers", made_up)
    found = transferred(run_dir, pets, learning_rates="1e30,0.02,0.01", weight_decays="0,0.01", steps=1)
    details = found["pets finetune"]["details"]
    assert (details["peak_lr"], details["weight_decay"], details["held_out"]) == (0.02, 0.5, 1.0)
    told = capsys.readouterr().err
    assert "rate 0.02, decay 0.01, trial: 100.0% of the tenth held out" in told
    assert "rate 0.01, decay 0.01, trial: 0.0% of the tenth held out" in told


def test_a_learning_rate_that_diverges_is_passed_over(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pets = rename(tiny_shards(tmp_path / "pets", 4, 2, side=32), "pets")
    found = transferred(run_dir, pets, learning_rates="1e30,0.05", steps=3)
    assert found["pets finetune"]["details"]["peak_lr"] == 0.05
    assert "transfer pets finetune, rate 1e+30, decay 0, trial: the loss is not finite" in capsys.readouterr().err


def test_a_trial_never_sees_the_images_that_it_is_judged_by(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pets = rename(tiny_shards(tmp_path / "pets", 20, 2, side=32), "pets")
    learnt: list[set[int]] = []
    judged: list[set[int]] = []

    def watched_learn(training: Training, classifier: Classifier, accelerator: Any, directory: Path) -> Progress:
        learnt.append(set(training.split.samples["crc32"].tolist()))
        return learn(training, classifier, accelerator, directory)

    def watched_answers(classifier: Classifier, test: SplitIndex, *others: Any) -> torch.Tensor:
        judged.append(set(test.samples["crc32"].tolist()))
        return answers(classifier, test, *others)

    monkeypatch.setattr("eval.transfer.learn", watched_learn)
    monkeypatch.setattr("eval.transfer.answers", watched_answers)
    transferred(run_dir, pets, learning_rates="0.1,0.01", steps=2)
    assert [len(images) for images in learnt] == [36, 36, 40]
    assert [len(images) for images in judged] == [4, 4, 40]
    assert not learnt[0] & judged[0]
    assert learnt[0] | judged[0] == learnt[2]
    assert not learnt[2] & judged[2]


def test_transfer_where_every_learning_rate_diverges_is_refused(run_dir: Path, tmp_path: Path) -> None:
    pets = rename(tiny_shards(tmp_path / "pets", 4, 2, side=32), "pets")
    with pytest.raises(EvaluationError, match="transfer pets: every learning rate diverges; add smaller ones"):
        transferred(run_dir, pets, learning_rates="1e30,1e31")


def test_two_data_sets_of_one_name_are_refused(run_dir: Path, tmp_path: Path) -> None:
    first, second = (tiny_shards(tmp_path / name, 4, 2, side=32) for name in ("a", "b"))
    with pytest.raises(EvaluationError, match=r"transfer.dirs: .*/a and .*/b are both named tiny"):
        transferred(run_dir, first, second)


def test_a_data_set_without_labels_is_refused_before_anything_is_trained(run_dir: Path, tmp_path: Path) -> None:
    good = rename(tiny_shards(tmp_path / "good", 4, 2, side=32), "good")
    bad = tiny_shards(tmp_path / "bad", 4, 2, side=32, labelled=False)
    with pytest.raises(EvaluationError, match="bad: 8 of 8 images of split train have no label"):
        transferred(run_dir, good, bad)
    assert not (run_dir / "eval").exists()


def test_classes_of_one_image_each_cannot_choose_a_learning_rate(run_dir: Path, tmp_path: Path) -> None:
    pets = rename(tiny_shards(tmp_path / "pets", 1, 4, side=32), "pets")
    with pytest.raises(EvaluationError, match=r"pets: no class has a second train image"):
        transferred(run_dir, pets, learning_rates="0.1,0.01")
