import logging
import shutil
import socket
import subprocess
import urllib.request

import pytest
from prometheus_client import REGISTRY, generate_latest

from ops.exporter import start_exporter
from ops.metrics import TrainingMetrics
from pipelines.canvases import LoaderWork
from pipelines.prefetch import Occupancy
from train.checkpoint_writer import Written
from train.config import MetricsConfig, PretrainConfig
from train.log_line import LogLine
from train.loop import StepRecord


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def step(number: int, log: LogLine | None = None) -> StepRecord:
    return StepRecord(
        step=number,
        images=8,
        step_seconds=0.2,
        data_wait_seconds=0.05,
        skip_reasons=("checksum",),
        work=LoaderWork(decode_seconds=0.25, images_decoded=6, images_cached=2, bytes_read=600),
        log=log,
    )


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_steps_are_counted_and_the_page_is_served_on_loopback() -> None:
    port = free_port()
    metrics = TrainingMetrics(PretrainConfig(metrics=MetricsConfig(port=port)), rank=0, local_rank=0)
    images, waits = value("diptych_train_images_total"), value("diptych_train_data_wait_seconds_total")
    skips = value("diptych_data_samples_skipped_total", reason="checksum")
    decoding = value("diptych_data_stage_seconds_total", stage="decode")
    blocked = value("diptych_data_stage_seconds_total", stage="blocked")
    failures = value("diptych_checkpoint_failures_total")
    cached, read = value("diptych_data_images_total", source="cached"), value("diptych_data_read_bytes_total")
    metrics.record(step(1), Occupancy(ready=3, blocked_seconds=1.0))
    line = LogLine(
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
    metrics.record(step(2, line), Occupancy(ready=2, blocked_seconds=1.5))
    metrics.checkpoint_attempted(Written(step=2, seconds=0.5, bytes=1000, error="No space left on device"))
    assert value("diptych_checkpoint_failing") == 1
    metrics.checkpoint_attempted(Written(step=2, seconds=0.5, bytes=1000, error=None))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        page = answer.read().decode()
    assert value("diptych_train_images_total") - images == 16
    assert value("diptych_train_data_wait_seconds_total") - waits == pytest.approx(0.1)
    assert value("diptych_data_samples_skipped_total", reason="checksum") - skips == 2
    assert value("diptych_data_stage_seconds_total", stage="decode") - decoding == 0.5
    assert value("diptych_data_stage_seconds_total", stage="blocked") - blocked == 1.5
    assert value("diptych_data_images_total", source="cached") - cached == 4
    assert value("diptych_data_read_bytes_total") - read == 1200
    assert value("diptych_data_queue_batches") == 2
    assert "diptych_train_loss_nats 3.25" in page
    assert "diptych_train_gradient_norm 1.5" in page
    assert "diptych_train_largest_trust_ratio 0.75" in page
    assert "diptych_train_skipped_steps 3.0" in page
    assert "diptych_probe_top1_ratio 0.25" in page
    assert 'diptych_health_value{name="effective_rank"} 12.0' in page
    assert 'diptych_train_stage_seconds_sum{stage="forward"}' in page
    assert "diptych_train_left_out_batches 2.0" in page
    assert "diptych_checkpoint_last_timestamp_seconds 1." in page
    assert "diptych_checkpoint_last_step 2.0" in page
    assert "diptych_checkpoint_size_bytes 1000.0" in page
    assert "diptych_checkpoint_write_seconds_sum 0.5" in page
    assert value("diptych_checkpoint_failures_total") - failures == 1
    assert value("diptych_checkpoint_failing") == 0
    assert 'diptych_run_info{config_sha256="' in page


def test_promtool_accepts_the_page() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    ours = b"".join(block for block in generate_latest(REGISTRY).splitlines(keepends=True) if b"diptych_" in block)
    assert ours
    checked = subprocess.run([promtool, "check", "metrics"], input=ours, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert not checked.stderr


def test_a_busy_port_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with caplog.at_level(logging.WARNING):
            start_exporter("127.0.0.1", port)
    assert f"no metrics on 127.0.0.1:{port}" in caplog.text
    assert "choose another --metrics.port" in caplog.text
