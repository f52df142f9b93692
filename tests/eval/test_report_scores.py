"""What a report tells of scores, against a naive reading of the same answers."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from evaluated_run import evaluated_run, write_answers, write_results

from eval.pages.confusion import class_tables, confusion_counts, confusions
from eval.pages.paired import paired_difference
from eval.pages.run_files import read_runs
from eval.pages.score_tables import difference_rows, score_tables

Labels = npt.NDArray[np.int32]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """Written once; tests only read it."""
    return evaluated_run(tmp_path_factory.mktemp("runs") / "first", shards)


def score(answers: Labels, right: Labels, metric: str) -> float:
    if metric == "top1":
        return float(np.mean(answers == right))
    return float(np.mean([np.mean(answers[right == label] == label) for label in np.unique(right)]))


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_a_paired_difference_is_what_resampling_the_images_gives(metric: str) -> None:
    generator = np.random.default_rng(0)
    right = generator.choice(2, size=300, p=[0.6, 0.4]).astype(np.int32)
    right[:2] = 2  # a class that one resample in seven leaves out
    first = np.where(generator.random(300) < 0.7, right, 0).astype(np.int32)
    first[:2] = 2
    second = np.where(generator.random(300) < 0.5, 1 - right, first).astype(np.int32)
    second[:2] = 0
    difference = paired_difference(first, second, right, metric)
    assert difference.value == pytest.approx(score(first, right, metric) - score(second, right, metric), abs=1e-12)
    resampled = []
    for _ in range(3000):
        drawn = generator.integers(0, 300, 300)
        resampled.append(score(first[drawn], right[drawn], metric) - score(second[drawn], right[drawn], metric))
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert (difference.low, difference.high) == pytest.approx((low, high), abs=0.012)
    reverse = paired_difference(second, first, right, metric)
    assert reverse.value == pytest.approx(-difference.value, abs=1e-12)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_answers_that_agree_do_not_differ_whatever_they_are_worth(metric: str) -> None:
    right = np.arange(60, dtype=np.int32) % 3
    difference = paired_difference(right // 2, right // 2, right, metric)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert not difference.is_resolved


def test_confusion_counts_each_pair_of_right_class_and_answer() -> None:
    generator = np.random.default_rng(1)
    right, answers = (generator.integers(0, 5, 200).astype(np.int32) for _ in range(2))
    counts = confusion_counts(right, answers, 5)
    for row in range(5):
        for column in range(5):
            assert counts[row, column] == sum(
                1 for r, a in zip(right.tolist(), answers.tolist(), strict=True) if (r, a) == (row, column)
            )


def test_the_confusion_is_that_of_the_best_protocol_on_the_frozen_encoder(run_dir: Path) -> None:
    (run,) = read_runs([str(run_dir)])
    found, missing = confusions([run])
    assert not missing
    (confusion,) = found
    assert confusion.score.value == max(s.value for s in run.evaluated().scores if s.representation == "encoder")
    assert confusion.counts.trace() / confusion.counts.sum() == pytest.approx(confusion.score.value)
    assert confusion.shares.sum(axis=1) == pytest.approx(1)
    # The fixture's wrong answers are all the next class.
    assert {(pair.right, pair.answer) for pair in confusion.pairs} == {
        (f"class{i}", f"class{(i + 1) % 4}") for i in range(4) if confusion.counts[i, (i + 1) % 4]
    }
    (table,) = class_tables(found)
    assert [row.shares[0] for row in table.rows] == pytest.approx(confusion.shares.diagonal().tolist())
    assert (table.left_out, [row.images for row in table.rows]) == (0, [16] * 4)


def test_differences_are_against_controls_and_then_against_the_first_run(
    run_dir: Path, shards: Path, tmp_path: Path
) -> None:
    other = evaluated_run(tmp_path / "second", shards, accuracy=0.6, seed=4)
    runs = read_runs([str(run_dir), str(other)])
    rows, missing = difference_rows(runs)
    assert not missing
    assert [(row.protocol, row.first, row.second) for row in rows[-2:]] == [
        ("knn", "second: encoder", "first: encoder"),
        ("linear", "second: encoder", "first: encoder"),
    ]
    assert {(row.first, row.second) for row in rows[:-2]} == {
        (f"{name}: encoder", control) for name in ("first", "second") for control in ("random init", "raw pixels")
    }
    values = {
        (run.name, s.protocol): s.value for run in runs for s in run.evaluated().scores if s.representation == "encoder"
    }
    assert rows[-1].difference.value == pytest.approx(values["second", "linear"] - values["first", "linear"])
    (table,) = score_tables(runs)
    assert [protocol.title for protocol in table.protocols] == ["knn", "linear"]
    assert [(row.representation, row.run) for row in table.protocols[0].rows[:3]] == [
        ("encoder", "first"),
        ("encoder", "second"),
        ("random init", "first"),
    ]


def test_fine_tuning_is_compared_with_the_same_network_from_scratch(shards: Path, tmp_path: Path) -> None:
    run_dir = evaluated_run(tmp_path / "run", shards)
    scores = [
        write_answers(run_dir, shards, protocol, "encoder", accuracy, 0) | {"variant": variant}
        for protocol, accuracy in (("finetune", 0.9), ("supervised", 0.4))
        for variant in ("1 %", "10 %")
    ]
    write_results(run_dir, shards, scores, [f"class{i}" for i in range(4)])
    rows, missing = difference_rows(read_runs([str(run_dir)]))
    assert not missing
    assert [(row.protocol, row.second) for row in rows] == [
        ("finetune 1 %", "supervised 1 %"),
        ("finetune 10 %", "supervised 10 %"),
    ]
    assert rows[0].difference.value == pytest.approx(scores[0]["value"] - scores[2]["value"])


def test_scores_of_other_test_images_are_not_compared(run_dir: Path, shards: Path, tmp_path: Path) -> None:
    other = evaluated_run(tmp_path / "second", shards)
    labels = other / "eval" / "predictions" / "labels.npy"
    np.save(labels, np.load(labels)[::-1])
    rows, missing = difference_rows(read_runs([str(run_dir), str(other)]))
    assert not missing
    assert not any(row.second.startswith("first") for row in rows)


def test_answers_that_are_lost_or_damaged_are_told_by_file(shards: Path, tmp_path: Path) -> None:
    run_dir = evaluated_run(tmp_path / "run", shards)
    answers = run_dir / "eval" / "predictions"
    (answers / "knn-random_init.npy").unlink()
    np.save(answers / "linear-encoder.npy", np.full(64, 4, dtype=np.int32))
    _, missing = difference_rows(read_runs([str(run_dir)]))
    assert len(missing) == 2
    assert any("knn-random_init.npy" in line and "repeat eval.evaluate" in line for line in missing)
    assert any("linear-encoder.npy: names a class that is not among the 4" in line for line in missing)


def test_an_evaluation_of_another_version_is_none(shards: Path, tmp_path: Path) -> None:
    run_dir = evaluated_run(tmp_path / "run", shards)
    path = run_dir / "eval" / "results.json"
    content = json.loads(path.read_text())
    for broken, reason in (
        ({**content, "version": 2}, "cannot be read by this version"),
        ({**content, "scores": [{"protocol": "knn"}]}, "is malformed (KeyError"),
        ({**content, "data": {}}, "says nothing of the data"),
    ):
        path.write_text(json.dumps(broken))
        (run,) = read_runs([str(run_dir)])
        assert run.evaluation is None
        assert reason in run.why_no_evaluation
        assert f"python -m eval.evaluate {run_dir}" in run.why_no_evaluation
