"""Curves and pictures of a report, against a naive reading of the same log lines, features and images."""

import base64
import io
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from evaluated_run import evaluated_run, write_log
from PIL import Image
from tiny_shards import tiny_image, tiny_shards

from eval.config import EvaluationDataConfig
from eval.errors import EvaluationError
from eval.pages import curves, embeddings, neighbours
from eval.pages.config import ReportConfig
from eval.pages.curves import draw_curves, resumed_at, series, thinned
from eval.pages.description import seconds_in_steps, setting_rows
from eval.pages.embeddings import principal_components, shown_classes
from eval.pages.kept_features import open_features
from eval.pages.neighbours import choose_queries, nearest, neighbour_sheets
from eval.pages.run_files import read_runs
from eval.pages.views_sheet import views_sheets
from pipelines.augment import TwoViews
from pipelines.loader import Share, training_batches
from pipelines.manifest import open_split


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """Written once; tests only read it."""
    return evaluated_run(tmp_path_factory.mktemp("runs") / "first", shards)


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


def decoded(uri: str) -> npt.NDArray[np.uint8]:
    header, _, content = uri.partition(",")
    assert header == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
