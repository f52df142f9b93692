"""A disk that is full, read-only or gone does not end a run, and costs it nothing but checkpoints."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from started_ranks import ROOT, TINY

from train.checkpoint import load_latest
from train.run_lock import RunLock

STEPS = 24


def command(data: Path, run_dir: Path, *flags: str) -> list[str]:
    return [sys.executable, "train/pretrain.py", *TINY, f"--data.dir={data}", f"--run_dir={run_dir}", *flags]


def run(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def lines(run_dir: Path) -> list[tuple[int, float]]:
    """Step and loss of each line of the log."""
    read: list[dict[str, Any]] = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in read]


def final_files(run_dir: Path) -> dict[str, bytes]:
    checkpoint = run_dir / "checkpoints" / f"step-{STEPS:08d}"
    return {
        path.name: path.read_bytes() for path in (*checkpoint.glob("*.safetensors"), *(run_dir / "encoder").iterdir())
    }


def wait_until(true: Callable[[], bool], process: "subprocess.Popen[bytes]", what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert process.poll() is None, f"the run ended before {what}"
        assert time.monotonic() < deadline, f"no sign of {what}"
        time.sleep(0.002)


def mount(*arguments: str | Path) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, room for some ten checkpoints."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", disk)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    done = run(command(shards, run_dir))
    assert done.returncode == 0, done.stderr
    return run_dir


def test_a_run_whose_disk_fills_up_turns_read_only_and_vanishes_ends_in_the_same_weights(
    shards: Path, small_disk: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run_dir, away = small_disk / "run", small_disk / "away"
    checkpoints = run_dir / "checkpoints"
    arguments = command(shards, run_dir, "--checkpoint.retry_seconds=0.1", "--checkpoint.max_failures=100000")
    said, complained = tmp_path / "stdout", tmp_path / "stderr"
    with (
        said.open("wb") as out,
        complained.open("wb") as err,
        subprocess.Popen(arguments, cwd=ROOT, stdout=out, stderr=err) as process,
    ):
        try:
            wait_until((checkpoints / "step-00000005").exists, process, "the first checkpoint")
            process.send_signal(signal.SIGSTOP)
            filler = fill(small_disk)
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: "No space left on device" in complained.read_text(), process, "a full disk")
            wait_until(lambda: f"step {STEPS} " in said.read_text(), process, "training that goes on")
            before = load_latest(checkpoints)  # the disk is still full
            assert before is not None
            assert 5 <= before.step < STEPS
            assert len(lines(run_dir)) < STEPS  # the others wait in memory

            mount("--bind", checkpoints, checkpoints)
            mount("-o", "remount,bind,ro", checkpoints)
            filler.unlink()
            wait_until(lambda: "Read-only file system" in complained.read_text(), process, "a read-only disk")
            run_dir.rename(away)
            wait_until(lambda: "No such file or directory" in complained.read_text(), process, "a vanished disk")
            subprocess.run(["umount", away / "checkpoints"], check=True)
            assert not run_dir.exists()
            away.rename(run_dir)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert "Traceback" not in complained.read_text()
    assert "training goes on, the one before is untouched" in complained.read_text()
    assert final_files(run_dir) == final_files(undisturbed)
    assert lines(run_dir) == lines(undisturbed)
    assert [step for step, _ in lines(run_dir)] == list(range(1, STEPS + 1))
    assert not [*run_dir.rglob("*partial*")]


def test_a_run_that_can_never_save_stops_with_one_line_and_status_2(shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "checkpoints").touch()  # a file where the directory belongs
    done = run(command(shards, run_dir, "--checkpoint.retry_seconds=0", "--checkpoint.max_failures=3"))
    assert done.returncode == 2
    *attempts, last = done.stderr.splitlines()
    assert last.startswith(f"pretrain: error: {len(attempts)} attempts to write a checkpoint failed one after another")
    assert f"make room or repair {run_dir}, and start the same command again" in last
    assert all("could not be written" in line for line in attempts)
    assert 5 < len(lines(run_dir)) < STEPS


def test_a_second_run_in_the_same_directory_is_refused_and_changes_nothing(shards: Path, tmp_path: Path) -> None:
    with RunLock(tmp_path / "run") as lock:
        lock.take()
        done = run(command(shards, tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"in use by process {os.getpid()} on {platform.node()}" in done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
