"""Where a broken step began is found again: by sample, by module, by gradient."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_shards import tiny_image
from torch import Tensor

from pipelines.augment import TwoViews
from pipelines.manifest import open_split
from pipelines.order import SampleOrder
from pipelines.plan import Plan
from train.arguments import parse
from train.config import PretrainConfig
from train.non_finite import NonFiniteError
from train.pretrain import open_data, pretrain
from train.ranks import Ranks
from train.replay import ReplayConfig, as_asked, main, read_record
from train.watchdog import Watchdog

BATCH = 16
SMALL = [
    "--encoder.name=resnet18",
    "--encoder.stem=cifar",
    "--encoder.width=0.125",
    "--head.dim=16",
    "--views.size=32",
    "--optimizer.base_lr=0.2",
    "--schedule.epochs=2",
    "--schedule.warmup_epochs=1",
    f"--global_batch={BATCH}",
    "--checkpoint.every_steps=2",
    "--metrics.log_every_steps=4",
    "--metrics.port=0",
    "--precision=fp32",
    "--device=cpu",
    "--cpu_threads=1",
]


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps precision and device in a singleton."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    logging.getLogger().handlers.clear()


def ids_of_step(shards: Path, step: int) -> list[int]:
    """The batch of a step, from 0."""
    split = open_split(shards, "train")
    order = SampleOrder(split.samples_per_shard, window_shards=64, global_batch=BATCH, seed=0)
    return [int(sample) for sample in order.batch(step).ids(0, 1)]


def poison(patch: pytest.MonkeyPatch, sample: int, only: torch.dtype | None = None) -> None:
    """Make a view of one sample infinite, whenever it comes; in one precision alone, if that is named."""
    image = torch.from_numpy(tiny_image("train", sample, sample % 4, 32, 32)).permute(2, 0, 1)
    make_views = TwoViews.__call__

    def poisoned(self: TwoViews, canvas: Tensor, plan: Plan) -> Tensor:
        views = make_views(self, canvas, plan)
        hit = (canvas == image).flatten(1).all(1)
        if only in (None, views.dtype):
            views[len(hit) :][hit] = float("inf")
        return views

    patch.setattr(TwoViews, "__call__", poisoned)


def break_down(shards: Path, run_dir: Path, *flags: str) -> str:
    """Run until the run stops, and say with which message."""
    config = parse(PretrainConfig, [*SMALL, f"--data.dir={shards}", f"--run_dir={run_dir}", *flags])
    AcceleratorState._reset_state(reset_partial_state=True)
    stop: Any = SimpleNamespace(asked=False, begin_training=lambda: None)
    with pytest.raises(NonFiniteError) as error, Watchdog(Ranks(), config.timeouts, run_dir) as watchdog:
        pretrain(config, open_data(config, 1), stop, Ranks(), watchdog)
    AcceleratorState._reset_state(reset_partial_state=True)
    return str(error.value)


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def replayed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[dict[str, Any], str]]:
    """Calls the command twice, for JSON and for text."""

    def call(record: Path, *flags: str) -> tuple[dict[str, Any], str]:
        texts = []
        for extra in ("--json=true", "--json=false"):
            AcceleratorState._reset_state(reset_partial_state=True)
            monkeypatch.setattr(sys, "argv", ["replay", str(record), *flags, extra])
            capsys.readouterr()
            main()
            texts.append(capsys.readouterr().out)
        return json.loads(texts[0]), texts[1]

    return call


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The line with which the command ends."""

    def call(*arguments: str) -> str:
        AcceleratorState._reset_state(reset_partial_state=True)
        monkeypatch.setattr(sys, "argv", ["replay", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert error.startswith("replay: error: ")
        assert error.count("\n") == 1
        return error

    return call


@pytest.fixture(scope="module")
def broken_run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A run directory, and the sample of its third batch of which a view was infinite."""
    run_dir = tmp_path_factory.mktemp("replay") / "run"
    sample = ids_of_step(shards, 2)[5]
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, sample)
        message = break_down(shards, run_dir)
    assert message.startswith("projections of step 3 not finite on rank 0; ")
    return run_dir, sample


@pytest.fixture
def poisoned_run(broken_run: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, int]:
    """The same, while the sample is as it was then."""
    poison(monkeypatch, broken_run[1])
    return broken_run


def test_a_run_stops_at_its_next_logging_step_and_leaves_the_samples_of_the_broken_one(
    poisoned_run: tuple[Path, int], shards: Path
) -> None:
    run_dir, _ = poisoned_run
    record = run_dir / "non_finite" / "step-00000003"
    assert [path.name for path in record.iterdir()] == ["rank-0.json"]
    assert json.loads((record / "rank-0.json").read_text())["sample_id"] == ids_of_step(shards, 2)
    assert read_record(record).sample_id.tolist() == ids_of_step(shards, 2)
    assert not (run_dir / "metrics.jsonl").read_text()


@pytest.mark.parametrize(("scale", "saved"), [("1", ["step-00000001"]), ("1e39", [])])
def test_nothing_that_has_broken_down_is_saved_between_logging_steps(
    scale: str, saved: list[str], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step is broken by a view; or the weights, by the gradient of the first, whose loss is finite."""
    poison(monkeypatch, ids_of_step(shards, 1)[0])
    break_down(shards, tmp_path, f"--loss.scale={scale}", "--checkpoint.every_steps=1", "--checkpoint.keep_last=9")
    assert [path.name for path in sorted((tmp_path / "checkpoints").glob("*"))] == saved


def test_replay_names_step_module_and_the_one_sample_and_writes_nothing(
    poisoned_run: tuple[Path, int], shards: Path, replayed: Callable[..., tuple[dict[str, Any], str]]
) -> None:
    run_dir, sample = poisoned_run
    before = contents(run_dir)
    report, text = replayed(run_dir / "non_finite" / "step-00000003")
    assert contents(run_dir) == before
    assert (report["step"], report["from_step"], report["broken"]) == (3, 2, True)
    assert report["verdict"] == "it began in the views of step 3"
    assert report["views_not_finite"] == [sample]
    module = report["module"]
    assert (module["name"], module["kind"], module["samples"]) == ("encoder.conv1", "Conv2d", [sample])
    assert module["inputs_finite"] is False
    assert module["largest_finite_input"] <= 1
    assert report["projections_not_finite"] == ids_of_step(shards, 2)  # BatchNorm spreads it
    assert report["loss"] is None
    assert "encoder.conv1.weight" in report["gradients_not_finite"]
    assert report["samples"] == [
        {"id": sample, "shard": f"train-{sample // 32:06d}.tar", "key": f"{sample:06d}.png"},
    ]
    assert f"sample {sample}: train-{sample // 32:06d}.tar {sample:06d}.png" in text
    assert "projections  not finite: all 16 samples" in text


def test_from_new_weights_the_steps_before_are_repeated_too(
    poisoned_run: tuple[Path, int], replayed: Callable[..., tuple[dict[str, Any], str]]
) -> None:
    run_dir, sample = poisoned_run
    report, text = replayed(run_dir / "non_finite" / "step-00000003", "--from_checkpoint=start")
    assert (report["step"], report["from_step"], report["views_not_finite"]) == (3, 0, [sample])
    assert text.startswith(f"step 3 of {run_dir}, from step 0 in fp32 on cpu\n")


def test_what_overflows_only_in_bf16_is_told_by_a_replay_in_fp32(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replayed: Callable[..., tuple[dict[str, Any], str]]
) -> None:
    poison(monkeypatch, ids_of_step(shards, 1)[0], only=torch.bfloat16)
    break_down(shards, tmp_path, "--precision=bf16", "--checkpoint.every_steps=100")
    record = tmp_path / "non_finite" / "step-00000002"
    report, text = replayed(record, "--precision=fp32")
    assert report["verdict"] == "all is finite in fp32: the overflow was that of bf16"
    assert report["broken"] is False
    assert report["notes"] == ["the steps before it were repeated in fp32 too"]
    assert 0 < report["loss"] < 10
    assert len(report["largest_gradients"]) == 5
    assert "gradients    finite; largest: " in text
    assert replayed(record)[0]["verdict"] == "it began in the views of step 2"


def test_a_rate_far_too_large_is_seen_in_the_weights_and_in_the_module_that_overflows(
    shards: Path, tmp_path: Path, replayed: Callable[..., tuple[dict[str, Any], str]]
) -> None:
    break_down(shards, tmp_path, "--optimizer.base_lr=1e30", "--checkpoint.every_steps=100")
    report, text = replayed(tmp_path / "non_finite" / "step-00000003")
    assert (report["weights_not_finite"], report["views_not_finite"]) == ([], [])
    assert max(report["largest_weight"].values()) > 1e20
    module = report["module"]
    assert module["inputs_finite"] is True
    assert module["largest_finite_input"] > 1e20
    assert report["verdict"] == f"it began in {module['name']} ({module['kind']}) in step 3"
    assert report["verdict"] in text


def test_a_gradient_that_overflows_is_found_a_step_before_the_projections_show_it(
    shards: Path, tmp_path: Path, replayed: Callable[..., tuple[dict[str, Any], str]]
) -> None:
    message = break_down(shards, tmp_path, "--loss.scale=1e39", "--checkpoint.every_steps=100")
    assert message.startswith("projections of step 2 not finite on rank 0; ")
    report, _ = replayed(tmp_path / "non_finite" / "step-00000002")
    assert (report["recorded_step"], report["step"]) == (2, 1)
    assert report["module"] is None
    assert 0 < report["loss"] < 10
    assert report["gradients_not_finite"][0].startswith("head.")
    assert report["verdict"].startswith("it began in the backward of step 1, at the gradient of head.")


def test_what_several_ranks_left_is_joined_and_repeated_by_one(
    poisoned_run: tuple[Path, int],
    shards: Path,
    tmp_path: Path,
    replayed: Callable[..., tuple[dict[str, Any], str]],
) -> None:
    run_dir, sample = poisoned_run
    record = two_rank_record(run_dir, tmp_path)
    assert read_record(record).sample_id.tolist() == ids_of_step(shards, 2)
    report, text = replayed(record)
    assert report["views_not_finite"] == [sample]
    assert report["notes"] == [
        "the run had 2 ranks: here sums are added in another order",
        "BatchNorm's statistics over all ranks are computed by one process",
    ]
    assert "note: the run had 2 ranks" in text


def two_rank_record(run_dir: Path, directory: Path) -> Path:
    """The same run, as two ranks would have recorded it."""
    record = directory / "run" / "non_finite" / "step-00000003"
    record.mkdir(parents=True)
    (directory / "run" / "config.yaml").write_text((run_dir / "config.yaml").read_text())
    (directory / "run" / "checkpoints").symlink_to(run_dir / "checkpoints")
    content = json.loads((run_dir / "non_finite" / "step-00000003" / "rank-0.json").read_text())
    for rank in range(2):
        part = content["sample_id"][8 * rank : 8 * rank + 8]
        (record / f"rank-{rank}.json").write_text(json.dumps(content | {"world_size": 2, "sample_id": part}))
    return record


def test_in_micro_batches_the_sample_and_its_module_are_found_too(
    poisoned_run: tuple[Path, int], tmp_path: Path, replayed: Callable[..., tuple[dict[str, Any], str]]
) -> None:
    """BatchNorm of each rank alone: a micro-batch stands for a rank."""
    run_dir, sample = poisoned_run
    record = two_rank_record(run_dir, tmp_path)
    config = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(config.replace("batchnorm: auto", "batchnorm: local"))
    report, _ = replayed(record)
    assert report["module"]["samples"] == [sample]
    assert len(report["projections_not_finite"]) == 8  # of its rank
    assert sample in report["projections_not_finite"]
    assert report["notes"] == ["the run had 2 ranks: here sums are added in another order"]


def test_local_batchnorm_keeps_its_statistics_by_micro_batches_of_a_rank() -> None:
    run = PretrainConfig(global_batch=64, batchnorm="local")
    config = ReplayConfig(record="x")
    assert as_asked(run, config, 4).micro_batch == 16
    assert as_asked(run, config, 1).micro_batch == 0
    assert as_asked(replace(run, batchnorm="auto"), config, 4).micro_batch == 0
    assert as_asked(replace(run, micro_batch=8), config, 4).micro_batch == 8


def test_other_data_and_later_checkpoints_are_refused_in_a_line(
    poisoned_run: tuple[Path, int], tmp_path: Path, refused: Callable[..., str]
) -> None:
    run_dir, _ = poisoned_run
    record = two_rank_record(run_dir, tmp_path)
    for rank in range(2):
        content = json.loads((record / f"rank-{rank}.json").read_text())
        content["sample_id"][3] += 1
        (record / f"rank-{rank}.json").write_text(json.dumps(content))
    assert "the batch has other samples than then; the first that differs, in place 3, was " in refused(str(record))
    for rank in range(2):
        content = json.loads((record / f"rank-{rank}.json").read_text())
        (record / f"rank-{rank}.json").write_text(json.dumps(content | {"step": 1}))
    line = refused(str(record))
    assert "its newest checkpoint was made after 2 updates, but update 2 is to be repeated" in line
    assert "has no checkpoint step-N" in refused(str(record), f"--from_checkpoint={tmp_path}")


def test_what_is_not_a_record_is_refused_in_a_line(
    poisoned_run: tuple[Path, int], tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, _ = poisoned_run
    content = json.loads((run_dir / "non_finite" / "step-00000003" / "rank-0.json").read_text())
    record = tmp_path / "run" / "non_finite" / "step-00000003"
    assert "record: none named; give RUN/non_finite/step-N" in refused()
    assert f"{record}: no such directory" in refused(str(record))
    record.mkdir(parents=True)
    assert "rank-0.json: no such file; a record has one of every rank" in refused(str(record))
    first = record / "rank-0.json"
    first.write_text('{"format": ')
    assert "rank-0.json: cannot be read" in refused(str(record))
    wrong: list[dict[str, Any]] = [
        {"format": "x"},
        {"step": "3"},
        {"step": -1},
        {"world_size": 0},
        {"sample_id": ["a"]},
    ]
    for other in ([], {"format": "diptych-batch"}, *(content | field for field in wrong)):
        first.write_text(json.dumps(other))
        assert "not the record of a batch that was not finite" in refused(str(record))
    first.write_text(json.dumps(content | {"world_size": 2}))
    assert "rank-1.json: no such file" in refused(str(record))
    (record / "rank-1.json").write_text(json.dumps(content))
    assert "rank-1.json is of another run than rank-0.json" in refused(str(record))
    first.write_text(json.dumps(content))
    assert f"{tmp_path / 'run'}: no config.yaml" in refused(str(record))
    (tmp_path / "run" / "config.yaml").write_text((run_dir / "config.yaml").read_text())
    first.write_text(json.dumps(content | {"sample_id": [1, 2]}))
    assert "2 samples, but global_batch = 16" in refused(str(record))
    assert "precision: fp16 is not one of" in refused(str(record), "--precision=fp16")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "replay runs in one process" in refused(str(record))
