import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from prometheus_client import REGISTRY, generate_latest

from ops.training_metrics import TrainingMetrics
from pipelines.canvases import LoaderWork
from pipelines.prefetch import Occupancy
from train.checkpoint_writer import Written
from train.config import MetricsConfig, PretrainConfig
from train.log_line import LogLine
from train.loop import StepRecord
from train.ranks import Ranks


def training_metrics(run_dir: Path, rank: int = 0) -> TrainingMetrics:
    config = PretrainConfig(run_dir=str(run_dir), metrics=MetricsConfig(port=0))
    return TrainingMetrics(config, Ranks(rank=rank), local_rank=0, device=torch.device("cpu"), last_step=100, starts=3)


def step(number: int, log: LogLine | None = None) -> StepRecord:
    return StepRecord(
        step=number,
        images=8,
        step_seconds=0.2,
        stage_seconds={"data": 0.0625, "forward": 0.125},
        skip_reasons=("checksum",),
        work=LoaderWork(decode_seconds=0.25, transfer_seconds=0.125, images_decoded=6, images_cached=2, bytes_read=600),
        log=log,
    )


LINE = LogLine(
    step=2,
    epoch=0.5,
    loss=3.25,
    learning_rate=0.1,
    images_per_second=40.0,
    gradient_norm=1.5,
    largest_trust_ratio=0.75,
    skipped_steps=3,
    left_out_batches=2,
    probe_top1=0.25,
    health={"alignment": 0.5, "effective_rank": 12.0},
    stage_seconds={"forward": 0.125},
)


def value(name: str, /, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_each_step_adds_to_the_counters(tmp_path: Path) -> None:
    metrics = training_metrics(tmp_path)
    counters: dict[tuple[str, tuple[str, str] | None], float] = {
        ("diptych_train_images_total", None): 16,
        ("diptych_train_steps_total", None): 2,
        ("diptych_train_step_seconds_count", None): 2,
        ("diptych_train_data_wait_seconds_total", None): 0.125,
        ("diptych_train_stage_seconds_total", ("stage", "data")): 0.125,
        ("diptych_train_stage_seconds_total", ("stage", "forward")): 0.25,
        ("diptych_data_samples_skipped_total", ("reason", "checksum")): 2,
        ("diptych_data_stage_seconds_total", ("stage", "decode")): 0.5,
        ("diptych_data_stage_seconds_total", ("stage", "transfer")): 0.25,
        ("diptych_data_stage_seconds_total", ("stage", "blocked")): 1.5,
        ("diptych_data_images_total", ("source", "cached")): 4,
        ("diptych_data_read_bytes_total", None): 1200,
    }
    before = {key: value(key[0], **dict([key[1]] if key[1] else [])) for key in counters}
    metrics.record(step(1), Occupancy(ready=3, blocked_seconds=1.0))
    metrics.record(step(2, LINE), Occupancy(ready=2, blocked_seconds=1.5))
    for key, wanted in counters.items():
        assert value(key[0], **dict([key[1]] if key[1] else [])) - before[key] == pytest.approx(wanted), key
    assert value("diptych_data_queue_batches") == 2
    assert value("diptych_run_step") == 2


def test_a_log_line_sets_what_is_told_of_its_step(tmp_path: Path) -> None:
    training_metrics(tmp_path).record(step(2, LINE), Occupancy(ready=2, blocked_seconds=0.0))
    assert value("diptych_train_loss_nats") == 3.25
    assert value("diptych_train_learning_rate") == 0.1
    assert value("diptych_train_epoch") == 0.5
    assert value("diptych_train_gradient_norm") == 1.5
    assert value("diptych_train_largest_trust_ratio") == 0.75
    assert value("diptych_train_skipped_steps") == 3
    assert value("diptych_train_left_out_batches") == 2
    assert value("diptych_probe_top1_ratio") == 0.25
    assert value("diptych_health_value", name="effective_rank") == 12


def test_the_run_is_described_from_the_start(tmp_path: Path) -> None:
    training_metrics(tmp_path)
    assert value("diptych_run_restarts") == 3
    assert value("diptych_run_ranks") == 1
    assert value("diptych_run_total_steps") == 100
    assert value("diptych_train_temperature") == 0.1
    assert value("diptych_data_bad_sample_budget_ratio") == 0.001
    assert value("diptych_data_queue_capacity_batches") > 0
    # A run that never writes a checkpoint is to be noticed, too.
    assert value("diptych_checkpoint_last_timestamp_seconds") == value("diptych_run_start_timestamp_seconds") > 1.7e9
    assert value("diptych_disk_size_bytes", place="run") > value("diptych_disk_free_bytes", place="run") > 0
    assert value("diptych_disk_size_bytes", place="cache") > 0
    page = generate_latest(REGISTRY).decode()
    assert f'run_dir="{tmp_path}"' in page
    assert 'world_size="1"' in page


def test_a_disk_that_does_not_answer_costs_one_number_and_not_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_metrics(tmp_path)

    def gone(_path: Path) -> None:
        raise OSError("stale file handle")

    monkeypatch.setattr(shutil, "disk_usage", gone)
    page = generate_latest(REGISTRY).decode()
    assert 'diptych_disk_free_bytes{place="run"} NaN' in page
    assert "diptych_train_images_total" in page


def test_what_has_no_value_is_not_on_the_page(tmp_path: Path) -> None:
    metrics = training_metrics(tmp_path)
    page = generate_latest(metrics.page).decode()
    assert "diptych_train_images_total" in page
    assert "process_resident_memory_bytes" in page
    assert "diptych_checkpoint_last_timestamp_seconds" in page
    later = ("diptych_train_loss", "diptych_probe_top1", "diptych_train_last_step", "diptych_checkpoint_last_step")
    assert not [name for name in (*later, "diptych_device") if name in page]
    metrics.record(step(2, LINE), Occupancy(ready=2, blocked_seconds=0.0))
    metrics.checkpoint_attempted(Written(step=2, seconds=0.5, bytes=1000, error=None))
    page = generate_latest(metrics.page).decode()
    assert not [name for name in later if name not in page]
    assert "diptych_device" not in page  # there is none


def test_ranks_other_than_0_tell_nothing_of_checkpoints(tmp_path: Path) -> None:
    page = generate_latest(training_metrics(tmp_path, rank=1).page).decode()
    assert "diptych_train_images_total" in page
    assert "diptych_checkpoint" not in page


def test_attempts_at_checkpoints_are_told(tmp_path: Path) -> None:
    metrics = training_metrics(tmp_path)
    failures, seconds = value("diptych_checkpoint_failures_total"), value("diptych_checkpoint_write_seconds_sum")
    metrics.checkpoint_attempted(Written(step=2, seconds=0.5, bytes=1000, error="No space left on device"))
    assert value("diptych_checkpoint_failing") == 1
    assert value("diptych_checkpoint_failures_total") - failures == 1
    metrics.checkpoint_attempted(Written(step=2, seconds=0.5, bytes=1000, error=None))
    assert value("diptych_checkpoint_failing") == 0
    assert value("diptych_checkpoint_last_step") == 2
    assert value("diptych_checkpoint_size_bytes") == 1000
    assert value("diptych_checkpoint_write_seconds_sum") - seconds == 0.5
    assert value("diptych_checkpoint_failures_total") - failures == 1


def test_promtool_accepts_the_page() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    ours = b"".join(block for block in generate_latest(REGISTRY).splitlines(keepends=True) if b"diptych_" in block)
    assert ours
    checked = subprocess.run([promtool, "check", "metrics"], input=ours, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert not checked.stderr
