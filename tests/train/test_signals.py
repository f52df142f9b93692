"""A run that is asked to stop ends after the same step on all ranks, saved, with a status that says so."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from started_ranks import ROOT, start_ranks

from train.checkpoint import load_latest
from train.stop_request import EX_TEMPFAIL


@pytest.mark.parametrize(
    ("place", "world_size", "number"),
    [
        ("data", 2, signal.SIGTERM),
        ("forward", 2, signal.SIGINT),
        ("checkpoint", 2, signal.SIGTERM),
        ("logging", 1, signal.SIGUSR1),
    ],
)
def test_a_signal_stops_all_ranks_after_the_same_step_and_its_state_is_saved(
    place: str, world_size: int, number: signal.Signals, shards: Path, tmp_path: Path
) -> None:
    ranks = start_ranks(place, tmp_path, shards, [[]] * world_size)
    if place == "data":
        ranks.wait_for_step(7)  # all wait for the batch that rank 1 will not get
    else:
        ranks.wait_for("at-rank-0")
    asked = time.monotonic()
    ranks.signal(number)
    ends = ranks.ends(seconds=30)
    assert time.monotonic() - asked < 30
    assert [status for status, _ in ends] == [EX_TEMPFAIL] * world_size, ends
    made = [ranks.steps(rank) for rank in range(world_size)]
    assert all(steps == made[0] for steps in made)
    assert made[0][-1] == (7 if place == "data" else 8) or place == "checkpoint"
    checkpoint = load_latest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == made[0][-1] < 24
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_a_second_signal_ends_a_run_at_once_whatever_it_waits_for_and_leaves_its_checkpoints(
    shards: Path, tmp_path: Path
) -> None:
    ranks = start_ranks("deaf", tmp_path, shards, [[]])
    ranks.wait_for("at-rank-0")
    ranks.signal(signal.SIGTERM)
    time.sleep(1)
    ranks.signal(signal.SIGTERM)  # an echo: launchers pass on what a terminal has sent already
    time.sleep(1.5)
    assert ranks.processes[0].poll() is None
    ranks.signal(signal.SIGTERM)
    ((status, error),) = ranks.ends(seconds=5)
    assert status == 128 + signal.SIGTERM
    assert error == "pretrain: SIGTERM again; not waiting for a checkpoint\n"
    checkpoint = load_latest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 5


def test_a_signal_before_the_first_step_ends_a_run_that_has_nothing_to_save(shards: Path, tmp_path: Path) -> None:
    ranks = start_ranks("", tmp_path, shards, [[]], world_size=2)  # waits for the other one
    ranks.wait_until_they_listen(signal.SIGTERM)
    ranks.signal(signal.SIGTERM)
    ((status, error),) = ranks.ends(seconds=30)
    assert status == EX_TEMPFAIL
    assert "SIGTERM before the first step" in error
    assert not (tmp_path / "run").exists()


def test_a_signal_during_evaluation_ends_it_and_leaves_earlier_results_as_they_were(
    shards: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    assert start_ranks("", tmp_path, shards, [["--stop_after_steps=2"]]).ends()[0][0] == 0
    results = run_dir / "eval" / "results.json"
    results.parent.mkdir()
    results.write_text(json.dumps({"of": "an earlier version"}))
    process = subprocess.Popen(
        [sys.executable, "-m", "eval.evaluate", str(run_dir), "--device=cpu"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:  # those of test and the fits come after
        if line.startswith("train: features of"):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM
    assert json.loads(results.read_text()) == {"of": "an earlier version"}
    assert not list(results.parent.rglob("*.partial"))


def test_a_rank_whose_launcher_died_before_it_could_ask_the_kernel_ends(tmp_path: Path) -> None:
    if b"python" in Path("/proc/1/cmdline").read_bytes():
        pytest.skip("orphans become children of a Python program here, which passes for a launcher")
    code = "from train.stop_request import stop_with_launcher as f; f(); print('it trains')"
    for environment, expected in (({"TORCHELASTIC_RUN_ID": "1"}, "launcher is gone\nstatus 75"), ({}, "it trains")):
        said = tmp_path / f"said-{len(environment)}"
        orphan = f"(sleep 1; {sys.executable} -c {shlex.quote(code)}; echo status $?) > {said} 2>&1 &"
        subprocess.run(["/bin/sh", "-c", orphan], cwd=ROOT, env=os.environ | environment, check=True)
        deadline = time.monotonic() + 30
        while not (said.exists() and "status" in said.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert expected in said.read_text()
