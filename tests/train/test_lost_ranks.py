"""A rank that is missing, dead, stuck or different ends the run on all ranks, with a line that names it."""

import re
import signal
import time
from pathlib import Path

import pytest
from started_ranks import start_ranks

from train.config import TimeoutsConfig
from train.ranks import Ranks
from train.watchdog import EXIT_STALLED, Watchdog


def test_a_rank_that_never_joins_is_named(shards: Path, tmp_path: Path) -> None:
    ranks = start_ranks("", tmp_path, shards, [["--timeouts.startup_seconds=3"]], world_size=4)
    ((status, error),) = ranks.ends(seconds=40)
    assert status == 2
    assert error == (
        "pretrain: error: 3 of 4 ranks did not join within timeouts.startup_seconds = 3: 1, 2, 3; "
        "look at their output\n"
    )


def test_ranks_that_were_started_differently_are_named_by_all(shards: Path, tmp_path: Path) -> None:
    ranks = start_ranks("", tmp_path, shards, [[], ["--seed=1"]])
    (first, error), (second, other) = ranks.ends(seconds=40)
    assert (first, second) == (2, 2)
    assert error.splitlines()[-1] == (
        "pretrain: error: seed differs: 0 on rank 0, 1 on rank 1 (differing ranks: 1); start all ranks with the same "
        "program, configuration and data"
    )
    assert "pretrain: error" not in other
    assert not (tmp_path / "run").exists()


def test_a_rank_that_is_killed_is_named_by_the_other_which_ends(shards: Path, tmp_path: Path) -> None:
    ranks = start_ranks("", tmp_path, shards, [[], []])
    ranks.wait_for_step(6)
    ranks.processes[1].send_signal(signal.SIGKILL)
    (status, error), _ = ranks.ends(seconds=20)
    assert status == 1
    (line,) = [line for line in error.splitlines() if line.startswith("pretrain: error")]
    assert line.startswith("pretrain: error: rank 0 cannot go on: rank 1, last heard of at step ")
    assert ", does not answer (" in line


LIMITS = ["--timeouts.step_seconds=5", "--timeouts.stack_seconds=2"]


def test_a_rank_that_is_stuck_ends_all_and_every_thread_s_stack_is_told(shards: Path, tmp_path: Path) -> None:
    ranks = start_ranks("stuck", tmp_path, shards, [LIMITS, LIMITS])
    ranks.wait_for("at-rank-1")
    ends = ranks.ends(seconds=30)
    assert [status for status, _ in ends] == [EXIT_STALLED, EXIT_STALLED]
    for rank, (_, error) in enumerate(ends):
        (line,) = [line for line in error.splitlines() if line.startswith("pretrain: error")]
        assert f"rank {rank} has been at step 7 for" in line
        assert "more than timeouts.step_seconds = 5; " in line
        assert re.search(f"pretrain: warning: rank {rank} has been at step 7 for . s; stacks of its threads:", error)
        stacks = (tmp_path / "run" / "stalled" / f"rank-{rank}.txt").read_text()
        assert stacks.count("\nThread 0x") + stacks.count("\nCurrent thread 0x") >= 3
    places = r"all ranks live: rank 0 is in model/\S+ \(\w+\), rank 1 is in tests/stoppable_run.py:\d+ \(arrive\)"
    assert re.search(places, ends[0][1])
    assert "in arrive\n" in (tmp_path / "run" / "stalled" / "rank-1.txt").read_text()


def test_a_rank_that_does_not_run_at_all_is_told_as_missing(shards: Path, tmp_path: Path) -> None:
    ranks = start_ranks("", tmp_path, shards, [LIMITS, LIMITS])
    ranks.wait_for_step(6)
    ranks.processes[1].send_signal(signal.SIGSTOP)
    try:
        ranks.processes[0].wait(timeout=30)
    finally:
        ranks.processes[1].kill()
    (status, error), _ = ranks.ends()
    assert status == EXIT_STALLED
    (line,) = [line for line in error.splitlines() if line.startswith("pretrain: error")]
    assert "; rank 1, last heard of at step " in line
    assert ", does not answer; the same command goes on from the last checkpoint" in line


def test_a_call_that_keeps_the_interpreter_to_itself_is_ended_too(shards: Path, tmp_path: Path) -> None:
    ranks = start_ranks("interpreter", tmp_path, shards, [LIMITS])
    ranks.wait_for("at-rank-0")
    began = time.monotonic()
    ((status, error),) = ranks.ends(seconds=30)
    assert status == 1
    assert time.monotonic() - began < 15
    assert "in arrive" in error


def test_a_run_that_moves_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    limits = TimeoutsConfig(startup_seconds=1.5, step_seconds=1.5, stack_seconds=1.5)
    with Watchdog(Ranks(), limits, tmp_path) as watchdog:
        for step in range(8):
            time.sleep(0.4)
            watchdog.at_step(step)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""
