"""h against z: what is asked, and that answers come from what is there."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import begun, tiny_run
from torch import Tensor

from eval.config import EvaluationDataConfig
from eval.errors import EvaluationError
from eval.features import FrozenEncoder, LabelledFeatures, fixed_views
from eval.linear import answer_linear
from eval.pretrained_head import pretrained_head
from eval.probe_tasks import ANSWERS, NOISE_STD, changed, drawn_answers, noise_keys
from eval.probes import score_probes, spread_over
from eval.probes_config import ProbesConfig
from pipelines.manifest import open_split

QUESTIONS = ("class", *ANSWERS)


@pytest.fixture
def run_dir(tmp_path: Path, shards: Path) -> Path:
    return tiny_run(tmp_path / "run", shards)


def some_views(count: int = 8) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.manual_seed(0))


def keys(count: int = 8) -> Tensor:
    return torch.from_numpy(noise_keys(count, "train", 0))


@pytest.mark.parametrize("question", ANSWERS)
def test_every_answer_is_drawn_equally_often_and_all_over_the_split(question: str) -> None:
    answers = drawn_answers(question, 4001, "train", seed=3)
    number = len(ANSWERS[question])
    assert np.bincount(answers).max() - np.bincount(answers).min() <= 1
    for quarter in np.array_split(answers, 4):
        assert np.bincount(quarter, minlength=number).min() > 0.8 * len(quarter) / number
    assert np.array_equal(answers, drawn_answers(question, 4001, "train", seed=3))
    for other in (drawn_answers(question, 4001, "test", seed=3), drawn_answers(question, 4001, "train", seed=4)):
        assert 0.8 < (other == answers).mean() * number < 1.2  # independent


def test_the_questions_have_answers_of_their_own() -> None:
    two_valued = [drawn_answers(question, 4000, "train", 0) for question in ("colour", "corruption", "sobel")]
    for first, second in pairwise(two_valued):
        assert 0.45 < (first == second).mean() < 0.55


@pytest.mark.parametrize("question", ANSWERS)
def test_the_first_answer_leaves_a_view_alone_and_no_input_is_changed(question: str) -> None:
    views = some_views()
    before = views.clone()
    assert torch.equal(changed(question, views, torch.zeros(8), keys()), before)
    answers = torch.arange(8) % len(ANSWERS[question])
    mixed = changed(question, views, answers, keys())
    assert torch.equal(views, before)
    assert torch.equal(mixed[answers == 0], before[answers == 0])
    assert not any(torch.equal(a, b) for a, b in zip(mixed[answers > 0], before[answers > 0], strict=True))
    assert 0 <= float(mixed.min()) <= float(mixed.max()) <= 1


def test_gray_views_have_the_luminance_in_every_channel() -> None:
    views = some_views()
    gray = changed("colour", views, torch.ones(8), keys())
    expected = 0.299 * views[:, 0] + 0.587 * views[:, 1] + 0.114 * views[:, 2]
    for channel in range(3):
        torch.testing.assert_close(gray[:, channel], expected)


def test_quarter_turns_go_to_the_left() -> None:
    views = torch.zeros(4, 3, 4, 4)
    views[:, :, 0, 0] = 1  # top left
    turned = changed("rotation", views, torch.arange(4), keys(4))
    corners = [tuple(int(place[0]) for place in torch.nonzero(view[0], as_tuple=True)) for view in turned]
    assert corners == [(0, 0), (3, 0), (3, 3), (0, 3)]


def test_noise_has_the_spread_that_is_told_and_is_each_images_own() -> None:
    views = torch.full((4, 3, 64, 64), 0.5)
    noise = changed("corruption", views, torch.ones(4), keys(4)) - 0.5
    # Clipped at 2.5 standard deviations, which takes two per cent off.
    assert float(noise.std()) == pytest.approx(NOISE_STD, rel=0.03)
    assert abs(float(noise.mean())) < 0.005
    assert abs(float(torch.corrcoef(noise.flatten(1))[0, 1])) < 0.05


def test_flat_views_have_no_edges() -> None:
    edges = changed("sobel", torch.full((2, 3, 16, 16), 0.7), torch.ones(2), keys(2))
    assert float(edges.abs().max()) < 2e-3  # kornia's sobel adds 1e-6 under the root


def test_h_z_and_the_control_are_asked_everything(run_dir: Path) -> None:
    score_probes(*begun(run_dir))
    content = json.loads((run_dir / "eval" / "results.json").read_text())
    asked = [(score["variant"], score["representation"]) for score in content["scores"]]
    assert asked == [(question, name) for question in QUESTIONS for name in ("h", "z", "random_init")]
    for score in content["scores"]:
        assert (score["protocol"], score["n_train"], score["n_test"]) == ("probes", 64, 64)
        answers = ANSWERS.get(score["variant"], ("class0", "class1", "class2", "class3"))
        assert score["chance"] == pytest.approx(1 / len(answers))
        data = content["data"][score["data"]]
        assert tuple(data["classes"]) == answers
        right = np.load(run_dir / "eval" / data["labels"])
        assert np.bincount(right).tolist() == [64 // len(answers)] * len(answers)
        assert (np.load(run_dir / "eval" / score["predictions"]) == right).mean() == score["value"]


def test_the_answers_are_those_of_the_linear_protocol_on_changed_views(run_dir: Path) -> None:
    """Naively: all views at once through encoder and head, for rotation."""
    evaluation, book = begun(run_dir, controls="none")
    score_probes(evaluation, book)
    encoder = FrozenEncoder(evaluation.encoder, evaluation.description, evaluation.device)
    head, subject = pretrained_head(evaluation), evaluation.subject
    parts: dict[str, list[Any]] = {"h": [], "z": []}
    for split in (subject.train, subject.test):
        (views,) = fixed_views(split, evaluation.data, 16, batch=len(split), device=evaluation.device)
        answers = torch.from_numpy(drawn_answers("rotation", len(split), split.name, evaluation.seed)).long()
        turned = torch.stack([torch.rot90(view, int(a), dims=(1, 2)) for view, a in zip(views, answers, strict=True)])
        with torch.no_grad():
            h = encoder(turned)
            z = head(h.clone())
        for name, features in (("h", h), ("z", z)):
            parts[name].append((features, answers))
    for score in book.asked:
        if score.variant == "rotation":
            (train, train_answers), (test, test_answers) = parts[score.representation]
            naive = answer_linear(
                LabelledFeatures(features=train, labels=train_answers),
                LabelledFeatures(features=test, labels=test_answers),
                4,
                evaluation.device,
            )
            given = np.load(run_dir / "eval" / score.predictions)
            assert (naive.predictions.numpy() == given).mean() > 0.95  # rounding moves what lies on the border


def test_no_more_images_than_asked_for_are_used_spread_over_the_split(run_dir: Path, shards: Path) -> None:
    train = open_split(shards, "train")
    part = spread_over(train, 10)
    assert [len(part), len(spread_over(train, 64))] == [10, 64]
    assert part.samples["label"].tolist() == [row % 4 for row in (0, 7, 14, 21, 28, 35, 42, 49, 56, 63)]
    score_probes(*begun(run_dir, controls="none", probes=ProbesConfig(images=32)))
    content = json.loads((run_dir / "eval" / "results.json").read_text())
    assert all((score["n_train"], score["n_test"]) == (32, 32) for score in content["scores"])


def test_an_encoder_alone_is_refused(run_dir: Path, shards: Path) -> None:
    with pytest.raises(EvaluationError, match="an encoder alone, without the head"):
        score_probes(*begun(run_dir / "encoder", data=EvaluationDataConfig(dir=str(shards))))


def test_a_head_of_another_step_is_refused(tmp_path: Path, shards: Path) -> None:
    run_dir = tiny_run(tmp_path / "other", shards, checkpoint_step=11)
    with pytest.raises(EvaluationError, match="the last checkpoint is of step 11, the encoder of step 12"):
        score_probes(*begun(run_dir))
