"""The parts of a report, each against a naive reading of the same files."""

import base64
import io
import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from evaluated_run import evaluated_run, write_answers, write_log, write_results
from PIL import Image
from tiny_shards import tiny_image, tiny_shards

from eval.config import EvaluationDataConfig
from eval.errors import EvaluationError
from eval.pages import curves, embeddings, neighbours
from eval.pages.config import ReportConfig
from eval.pages.confusion import class_tables, confusion_counts, confusions
from eval.pages.curves import draw_curves, resumed_at, series, thinned
from eval.pages.description import seconds_in_steps, setting_rows
from eval.pages.embeddings import principal_components, shown_classes
from eval.pages.kept_features import open_features
from eval.pages.neighbours import choose_queries, nearest, neighbour_sheets
from eval.pages.paired import paired_difference
from eval.pages.run_files import read_runs
from eval.pages.score_tables import difference_rows, score_tables
from eval.pages.views_sheet import views_sheets
from pipelines.augment import TwoViews
from pipelines.loader import Share, training_batches
from pipelines.manifest import open_split

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
    scores = []
    for protocol, accuracy in (("finetune", 0.9), ("supervised", 0.4)):
        for variant in ("1 %", "10 %"):
            scores.append(write_answers(run_dir, shards, protocol, "encoder", accuracy, 0) | {"variant": variant})
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


def test_a_curve_leaves_out_what_was_lost_at_a_change_of_the_configuration(shards: Path, tmp_path: Path) -> None:
    run_dir = evaluated_run(tmp_path / "run", shards)
    write_log(run_dir / "metrics.change-1.jsonl", range(21, 30), steps_per_epoch=10)  # went on at epoch 2
    with (run_dir / "metrics.change-1.jsonl").open("a") as file:
        file.write('{"step": 30, "epo')  # a crash
    (run,) = read_runs([str(run_dir)])
    epochs, losses = series(run, "loss")
    assert epochs.tolist() == [step / 4 for step in range(1, 9)] + [step / 10 for step in range(21, 30)]
    assert losses.tolist() == [10 / step for step in range(1, 9)] + [10 / step for step in range(21, 30)]
    assert resumed_at(run) == [2.1]  # of the start nobody can tell in which steps it counts


def test_resumes_stand_where_their_steps_are(run_dir: Path) -> None:
    (run,) = read_runs([str(run_dir)])
    assert resumed_at(run) == [6 / 4]
    assert seconds_in_steps(run) == pytest.approx(12 * 0.5)


def test_long_curves_are_means_over_equal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "MOST_POINTS", 5)
    epochs, values = thinned(np.arange(20.0), np.arange(20.0) ** 2)
    assert epochs.tolist() == [1.5, 5.5, 9.5, 13.5, 17.5]
    assert values.tolist() == [float(np.mean(np.arange(i, i + 4) ** 2)) for i in range(0, 20, 4)]


def test_only_quantities_that_were_logged_are_drawn(run_dir: Path) -> None:
    pictures = draw_curves(read_runs([str(run_dir)]))
    text = "".join(picture.svg for picture in pictures)
    assert 'aria-label="Loss by epoch: first from 10 to 0.8333."' in text
    assert "Largest trust ratio" not in text  # null in every line
    assert "#010203" not in text
    assert "currentColor" in text


def test_settings_that_differ_stand_first_and_shaping_ones_before_others(shards: Path, tmp_path: Path) -> None:
    first, second = (evaluated_run(tmp_path / name, shards) for name in ("one", "two"))
    config = (second / "config.yaml").read_text()
    config = config.replace("cpu_threads: 0", "cpu_threads: 1").replace("temperature: 0.1", "temperature: 0.5")
    (second / "config.yaml").write_text(config)
    differing, agreeing = setting_rows(read_runs([str(first), str(second)]))
    assert [(row.name, row.cells) for row in differing] == [
        ("loss.temperature", ("0.1", "0.5")),
        ("cpu_threads", ("0", "1")),
    ]
    assert "run_dir" in {row.name for row in agreeing}


def test_principal_components_are_those_of_the_centred_features(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "_ROWS_AT_ONCE", 7)
    (run,) = read_runs([str(run_dir)])
    features = open_features(run, "test", 4)
    found = principal_components(features)
    whole = features.rows(0, len(features)).astype(np.float64)
    _, singular, axes = np.linalg.svd(whole - whole.mean(axis=0), full_matrices=False)
    assert found.shares == pytest.approx(singular**2 / (singular**2).sum(), abs=1e-9)
    assert np.abs(np.diag(axes @ found.axes)) == pytest.approx(1, abs=1e-6)
    assert found.needed_for(0.9) == int((np.cumsum(found.shares) < 0.9).sum()) + 1


def test_of_many_classes_as_many_as_there_are_colours_are_told_apart() -> None:
    assert shown_classes(np.arange(10)) == list(range(10))
    chosen = shown_classes(np.arange(1000))
    assert len(set(chosen)) == 10
    assert max(chosen) > 100  # not the first ten


def test_nearest_are_those_of_a_loop_over_all_in_float64(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = read_runs([str(run_dir)])
    train = open_features(run, "train", 4)
    queries = open_features(run, "test", 4).rows(0, 9)
    rows, similarities = nearest(queries, train, 5)
    monkeypatch.setattr(neighbours, "_ROWS_AT_ONCE", 7)
    again, _ = nearest(queries, train, 5)
    assert (again == rows).all()
    stored = train.rows(0, len(train)).astype(np.float64)
    for query, found, similarity in zip(queries.astype(np.float64), rows, similarities, strict=True):
        cosines = [float(query @ row / math.sqrt((query @ query) * (row @ row))) for row in stored]
        order = sorted(range(len(cosines)), key=lambda i: (-cosines[i], i))[:5]
        assert found.tolist() == order
        assert similarity == pytest.approx([cosines[i] for i in order], abs=1e-9)


def test_queries_are_spread_over_the_classes() -> None:
    labels = np.repeat(np.arange(5), [100, 100, 100, 100, 1])
    chosen = choose_queries(labels, 12)
    assert np.bincount(labels[chosen], minlength=5).tolist() in (
        [3, 3, 3, 2, 1],
        [3, 3, 2, 3, 1],
        [3, 2, 3, 3, 1],
        [2, 3, 3, 3, 1],
    )
    assert (np.diff(labels[chosen]) >= 0).all()
    assert len(set(chosen.tolist())) == 12
    assert choose_queries(labels[:3], 12).tolist() == [0, 1, 2]


def test_neighbours_are_shown_by_their_own_pixels_and_classes(run_dir: Path) -> None:
    (run,) = read_runs([str(run_dir)])
    config = ReportConfig(runs=(str(run_dir),), images=6, neighbours=3)
    (sheet,), missing = neighbour_sheets([run], config)
    assert not missing
    test, train = open_features(run, "test", 4), open_features(run, "train", 4)
    chosen = choose_queries(test.labels, 6)
    rows, _ = nearest(np.concatenate([test.rows(i, i + 1) for i in chosen.tolist()]), train, 3)
    for query, row, near in zip(sheet.queries, chosen.tolist(), rows.tolist(), strict=True):
        assert query.name == f"class{row % 4}"
        assert (decoded(query.image) == tiny_image("test", row, row % 4, 32, 32)).all()
        for neighbour, train_row in zip(query.neighbours, near, strict=True):
            assert neighbour.name == f"class{train_row % 4}"
            assert neighbour.is_right == (train_row % 4 == row % 4)
            assert (decoded(neighbour.image) == tiny_image("train", train_row, train_row % 4, 32, 32)).all()
    right = [neighbour.is_right for query in sheet.queries for neighbour in query.neighbours]
    assert sheet.share_right == pytest.approx(np.mean(right))


def test_the_views_shown_are_those_that_training_begins_with(run_dir: Path) -> None:
    (run,) = read_runs([str(run_dir)])
    (sheet,), missing = views_sheets([run], ReportConfig(runs=(str(run_dir),), images=5))
    assert not missing
    share = Share(global_batch=run.config.global_batch, seed=run.config.seed, last_step=1)
    split = open_split(run.config.data.dir, "train")
    (batch,) = training_batches(split, run.config.data, run.config.views, share, torch.device("cpu"))
    views = (TwoViews(run.config.views)(batch.canvas, batch.plan) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert len(sheet.rows) == 5
    for i, row in enumerate(sheet.rows):
        assert row.title == f"class{batch.label[i]}, sample {batch.sample_id[i]}"
        for shown, view in zip(row.views, (views[i], views[i + 16]), strict=True):
            assert np.abs(decoded(shown).astype(int) - view).max() <= 1


def test_other_data_under_the_same_name_is_not_taken_for_the_evaluated(run_dir: Path, tmp_path: Path) -> None:
    other = tiny_shards(tmp_path / "other", images_per_class=5, classes=4, side=32)
    config = ReportConfig(runs=(str(run_dir),), data=EvaluationDataConfig(dir=str(other)))
    runs = read_runs([str(run_dir)])
    assert neighbour_sheets(runs, config) == (
        [],
        [f"first: {other}: not the data that was evaluated; name it with --data.dir"],
    )
    assert views_sheets(runs, config) == ([], [f"first: {other}: not the data that the run was trained on"])


def test_features_that_do_not_fit_their_labels_are_refused(shards: Path, tmp_path: Path) -> None:
    run_dir = evaluated_run(tmp_path / "run", shards)
    (run,) = read_runs([str(run_dir)])
    with pytest.raises(EvaluationError, match="has a label that is not among the 3 classes"):
        open_features(run, "test", 3)
    with pytest.raises(EvaluationError, match=r"val-encoder\.safetensors: no such file"):
        open_features(run, "val", 4)
    path = run_dir / "eval" / "features" / "test-encoder.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(EvaluationError, match="cannot be read"):
        open_features(run, "test", 4)


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


def decoded(uri: str) -> npt.NDArray[np.uint8]:
    header, _, content = uri.partition(",")
    assert header == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
