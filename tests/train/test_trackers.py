import time
import warnings
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from train.config import MetricsConfig, PretrainConfig
from train.distributed import make_accelerator
from train.errors import RunError
from train.log_line import LogLine
from train.trackers import finish_trackers, refuse_missing_trackers, start_trackers, track


def line(step: int) -> LogLine:
    return LogLine(
        step=step,
        epoch=0.5,
        loss=3.0 + step,
        learning_rate=0.1,
        images_per_second=40.0,
        gradient_norm=1.5,
        largest_trust_ratio=None,
        skipped_steps=0,
        left_out_batches=0,
        probe_top1=0.25,
        health={"alignment": 0.5},
        stage_seconds={"forward": 0.125},
    )


def log_two_lines(tmp_path: Path, tracker: str) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    config = PretrainConfig(
        run_dir=str(tmp_path / "run"),
        device="cpu",
        precision="fp32",
        metrics=MetricsConfig(trackers=(tracker,)),  # type: ignore[arg-type]  # one of the two names
    )
    (tmp_path / "run").mkdir()
    refuse_missing_trackers(config)
    accelerator = make_accelerator(config)
    start_trackers(accelerator, config)
    track(accelerator, line(10))
    track(accelerator, line(20))
    finish_trackers(accelerator)


def test_tensorboard_gets_the_numbers_of_the_log_lines(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `track` is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        log_two_lines(tmp_path, "tensorboard")
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "diptych"))
        events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(10, 13.0), (20, 23.0)]
    assert {"health/alignment", "stage_seconds/forward", "probe/top1"} <= set(events.Tags()["scalars"])
    assert "train/largest_trust_ratio" not in events.Tags()["scalars"]  # LARS's, and this is none


def test_wandb_gets_the_numbers_of_the_log_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra `track` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log_two_lines(tmp_path, "wandb")
    (record,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 60  # its own process writes
    while b"train/loss" not in record.read_bytes():
        assert time.monotonic() < deadline, record.read_bytes()
        time.sleep(0.1)


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.trackers.find_spec", lambda _name: None)
    config = PretrainConfig(metrics=MetricsConfig(trackers=("wandb",)))
    with pytest.raises(RunError, match=r"metrics\.trackers = wandb: not installed; run pip install 'diptych\[track\]'"):
        refuse_missing_trackers(config)
