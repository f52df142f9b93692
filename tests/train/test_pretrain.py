"""Runs as a user starts them: separate processes, from shards to the exported encoder."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from started_ranks import TINY
from tiny_shards import tiny_shards

from model.encoder_file import load_encoder
from train.config import load_config

ROOT = Path(__file__).resolve().parents[2]
STEPS = 24


def command(data: Path, run_dir: Path, *flags: str) -> list[str]:
    return [sys.executable, "train/pretrain.py", *TINY, f"--data.dir={data}", f"--run_dir={run_dir}", *flags]


def run(arguments: Sequence[str], **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        arguments, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=240
    )


def log(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def final_weights(run_dir: Path) -> list[bytes]:
    """Of the network, the momenta and the online probe."""
    directory = run_dir / "checkpoints" / f"step-{STEPS:08d}"
    return [(directory / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer", "probe")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An uninterrupted run in each precision."""
    directories = {precision: tmp_path_factory.mktemp("runs") / precision for precision in ("fp32", "bf16")}
    for precision, directory in directories.items():
        done = run(command(shards, directory, f"--precision={precision}", "--metrics.port=0"))
        assert done.returncode == 0, done.stderr
    return directories


def test_a_run_leaves_its_configuration_curve_checkpoints_and_encoder(finished: dict[str, Path]) -> None:
    directory = finished["bf16"]
    lines = log(directory)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[0]["learning_rate"] == 0
    assert all(line["images_per_second"] > 0 for line in lines)
    stages = ["data", "agree", "augment", "forward", "loss", "backward", "optimizer"]
    assert list(lines[0]["stage_seconds"]) == stages
    assert list(lines[1]["stage_seconds"]) == [*stages, "evaluation"]
    assert all(0 < line["loss"] < 10 for line in lines)
    assert load_config(directory / "config.yaml").precision == "bf16"
    assert [path.name for path in sorted((directory / "checkpoints").iterdir())] == ["step-00000020", "step-00000024"]
    encoder, description = load_encoder(directory / "encoder")
    assert (description.step, description.images_seen, description.data_name) == (24, 384, "tiny")
    checkpoint = load_file(directory / "checkpoints" / "step-00000024" / "model.safetensors")
    state = encoder.state_dict()
    assert all(torch.equal(state[name], checkpoint[f"encoder.{name}"]) for name in state)


def test_the_same_command_after_the_end_trains_no_more(finished: dict[str, Path], shards: Path) -> None:
    before = final_weights(finished["fp32"])
    again = run(command(shards, finished["fp32"], "--precision=fp32", "--metrics.port=0"))
    assert again.returncode == 0, again.stderr
    assert "step 24 of 24 is reached already" in again.stdout
    assert final_weights(finished["fp32"]) == before
    assert len(log(finished["fp32"])) == STEPS


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_killed_and_started_again_ends_in_the_same_weights(
    precision: str, finished: dict[str, Path], shards: Path, tmp_path: Path
) -> None:
    arguments = command(shards, tmp_path / "run", f"--precision={precision}", "--metrics.port=0")
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(log(tmp_path / "run")) < 8 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = len(log(tmp_path / "run"))
    assert 8 <= reached < STEPS, "the kill came too late to show anything"

    resumed = run(arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert re.search(r"resuming after step (5|10|15|20) of 24", resumed.stdout)
    assert final_weights(tmp_path / "run") == final_weights(finished[precision])
    assert [(line["step"], line["loss"]) for line in log(tmp_path / "run")] == [
        (line["step"], line["loss"]) for line in log(finished[precision])
    ]


def test_two_ranks_print_the_loss_curve_of_one(finished: dict[str, Path], shards: Path, tmp_path: Path) -> None:
    launcher = [str(Path(sys.executable).with_name("accelerate")), "launch", "--multi_gpu", "--num_processes", "2"]
    port = free_port()
    arguments = command(shards, tmp_path / "run", "--precision=fp32", "--stop_after_steps=20", "--metrics.port=0")
    done = run([*launcher, "--main_process_port", str(port), *arguments[1:]], ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout
    one, two = log(finished["fp32"])[:20], log(tmp_path / "run")
    assert [line["step"] for line in two] == list(range(1, 21))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-4)
    assert [line["learning_rate"] for line in two] == [line["learning_rate"] for line in one]
    assert [line["probe_top1"] for line in two] == pytest.approx([line["probe_top1"] for line in one], abs=0.07)
    for ours, theirs in zip(two[:5], one[:5], strict=True):
        assert ours["health"] == pytest.approx(theirs["health"], rel=1e-3, abs=1e-3)


def test_metrics_of_a_run_can_be_scraped_while_it_trains(shards: Path, tmp_path: Path) -> None:
    port = free_port()
    arguments = command(shards, tmp_path / "run", f"--metrics.port={port}", "--schedule.epochs=1000")
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        seen: list[float] = []
        deadline = time.monotonic() + 120
        while len(set(seen)) < 4 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    found = re.search(r"^diptych_train_images_total (\S+)", answer.read().decode(), re.MULTILINE)
            except OSError:
                continue
            seen += [float(found[1])] if found else []
        assert len(set(seen)) >= 4
        assert seen == sorted(seen)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.dir=/nowhere"], "/nowhere/manifest.json: no such file"),
        (["--data.dir="], "data.dir: no data set named"),
        (["--global_batch=128"], "64 train samples, less than global_batch = 128"),
        (["--precision=fp8"], "precision: fp8 is not one of"),
        (["--optimizer.lr=1"], "optimizer.lr: no such field"),
        (["--config=missing.yaml"], "missing.yaml: File does not exist"),
    ],
)
def test_bad_input_is_one_line_and_status_2(shards: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    done = run(command(shards, tmp_path / "run", *flags))
    assert done.returncode == 2
    assert done.stderr.startswith("pretrain: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_global_batch_that_ranks_cannot_share_is_told_by_rank_0_alone(shards: Path, tmp_path: Path) -> None:
    arguments = command(shards, tmp_path / "run", "--global_batch=16")
    first = run(arguments, WORLD_SIZE="3", RANK="0")
    assert (first.returncode, first.stderr) == (
        2,
        "pretrain: error: global_batch = 16: not divisible by the 3 ranks; use 15 or 18\n",
    )
    other = run(arguments, WORLD_SIZE="3", RANK="1")
    assert (other.returncode, other.stderr) == (2, "")


def test_fp16_without_cuda_and_unknown_encoders_are_refused(shards: Path, tmp_path: Path) -> None:
    for flag, message in (
        ("--precision=fp16", "precision = fp16: needs CUDA"),
        ("--encoder.name=resnet5 --encoder.width=1 --encoder.stem=imagenet", "encoder.name = resnet5: neither one of"),
    ):
        done = run(command(shards, tmp_path / "run", "--device=cpu", *flag.split()))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert message in done.stderr
        assert not (tmp_path / "run").exists()


def test_a_run_directory_with_another_configuration_or_data_is_refused(
    finished: dict[str, Path], shards: Path, tmp_path: Path
) -> None:
    before = final_weights(finished["fp32"])
    for flag, message in (
        ("--seed=1", "holds a run with seed = 0, but 1 was asked for"),
        ("--global_batch=32", "holds a run with global_batch = 16, but 32 was asked for"),
    ):
        done = run(command(shards, finished["fp32"], "--precision=fp32", flag))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
    other = tiny_shards(tmp_path / "other", images_per_class=20, classes=4, side=32)
    done = run(command(other, finished["fp32"], "--precision=fp32", "--schedule.epochs=6"))
    assert done.returncode == 2
    assert "not the data that" in done.stderr
    assert final_weights(finished["fp32"]) == before


def test_a_launcher_that_starts_fewer_processes_than_asked_is_found_out(shards: Path, tmp_path: Path) -> None:
    launcher = [str(Path(sys.executable).with_name("accelerate")), "launch", "--cpu", "--num_processes", "2"]
    done = run([*launcher, *command(shards, tmp_path / "run")[1:]])
    assert done.returncode != 0
    assert "pretrain: error: 2 processes were asked for but one was started" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_shard_that_does_not_match_the_manifest_is_refused(shards: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(shards, tmp_path / "data"))
    shard = data / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:1000])
    done = run(command(data, tmp_path / "run"))
    assert done.returncode == 2
    assert "train-000000.tar: 1000 bytes, manifest.json says" in done.stderr
