"""What the proof by killing rests on; the proof itself, small, is the slow test."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ops.chaos.__main__ import main, summary
from ops.chaos.kills import Kill, Target, draw_aims
from ops.chaos.processes import can_listen, freeze, kill_all, marked, ranks, reap, send, start
from ops.chaos.run import LAUNCHERS, Launcher, begun_at, differences, look, phase, training_arguments
from ops.chaos.soak import Crash
from train.checkpoint_files import TENSORS

STEPS = 12
TARGETS: list[Target] = ["any", "checkpoint write", "birth", "end"] * 5


@pytest.fixture
def mark() -> Iterator[str]:
    """Of processes that do not outlive the test."""
    mark = f"test-{os.getpid()}-{time.monotonic_ns()}"
    yield mark
    kill_all(mark)


def write_run(directory: Path, steps: int = STEPS, weights: bytes = b"weights") -> Path:
    """A finished run, as far as it is compared."""
    checkpoint = directory / "checkpoints" / f"step-{steps:08d}"
    checkpoint.mkdir(parents=True)
    for name in TENSORS:
        (checkpoint / name).write_bytes(weights)
    (directory / "encoder").mkdir()
    (directory / "encoder" / "encoder.json").write_text("{}")
    write_log(directory, steps)
    return directory


def write_log(directory: Path, steps: int, loss: float = 1.0) -> None:
    """Write it as each start does: under another name first."""
    lines = [json.dumps({"step": step, "loss": loss}) + "\n" for step in range(1, steps + 1)]
    (directory / "metrics.partial").write_text("".join(lines))
    (directory / "metrics.partial").replace(directory / "metrics.jsonl")


def make_kill(number: int, world_size: int = 1, vanish_seconds: float = 0.5, where: str = "training") -> Kill:
    return Kill(
        number=number,
        launcher="accelerate",
        world_size=world_size,
        target="any",
        victim="rank",
        phase=where,
        step=5,
        goes_on_from=3,
        vanish_seconds=vanish_seconds,
    )


def test_a_first_start_is_told_by_its_phases(tmp_path: Path) -> None:
    before = look(tmp_path)
    assert (before.step, before.checkpoint, phase(before, before, STEPS)) == (0, 0, "start-up")
    write_log(tmp_path, 2)
    assert phase(before, look(tmp_path), STEPS) == "training"
    partial = tmp_path / "checkpoints" / ".step-00000003.partial"
    partial.mkdir(parents=True)
    assert phase(before, look(tmp_path), STEPS) == "checkpoint write"
    partial.rename(partial.with_name("step-00000003"))
    assert look(tmp_path).checkpoint == 3
    assert phase(before, look(tmp_path), STEPS) == "training"
    write_log(tmp_path, STEPS)
    assert phase(before, look(tmp_path), STEPS) == "end"


def test_what_an_earlier_kill_left_is_not_a_present_phase(tmp_path: Path) -> None:
    partial = tmp_path / "checkpoints" / ".step-00000006.partial"
    partial.mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000003").mkdir()
    write_log(tmp_path, 7)
    before = look(tmp_path)
    assert (before.step, before.checkpoint) == (7, 3)
    assert phase(before, look(tmp_path), STEPS) == "start-up"
    write_log(tmp_path, 3)  # forgets the lines after the checkpoint
    assert phase(before, look(tmp_path), STEPS) == "start-up"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4}\n')
    assert phase(before, look(tmp_path), STEPS) == "training"
    partial.rmdir()
    partial.mkdir()  # the same name, and perhaps the same inode
    assert phase(before, look(tmp_path), STEPS) == "checkpoint write"


def test_a_start_that_has_no_lines_to_forget_goes_on_in_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000003").mkdir(parents=True)
    write_log(tmp_path, 3)
    before = look(tmp_path)
    assert phase(before, look(tmp_path), STEPS) == "start-up"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4}\n')
    assert phase(before, look(tmp_path), STEPS) == "training"


def test_a_line_that_a_kill_has_cut_off_is_no_step(tmp_path: Path) -> None:
    write_log(tmp_path, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')
    assert look(tmp_path).step == 2


@pytest.mark.parametrize(
    ("said", "step"),
    [
        ("resnet18\nresuming after step 30 of 312 in runs/a, to step 36\nstep 31  epoch 0.1\n", 30),
        ("resnet18\nstarting in runs/a, to step 36 of 312\n", 0),
        ("step 36 of 312 is reached already; nothing to do\n", 36),
        ("a launcher's warning\n", None),
    ],
)
def test_a_start_says_where_it_goes_on(said: str, step: int | None) -> None:
    assert begun_at(said) == step


def test_a_run_must_leave_what_the_reference_left(tmp_path: Path) -> None:
    reference = write_run(tmp_path / "reference")
    assert differences(write_run(tmp_path / "equal"), reference, STEPS) == []
    other = differences(write_run(tmp_path / "other", weights=b"others"), reference, STEPS)
    assert other == [f"checkpoints/step-00000012/{name} differs" for name in TENSORS]
    short = write_run(tmp_path / "short", steps=9)
    (short / "encoder" / "encoder.json").unlink()
    assert differences(short, reference, STEPS) == [
        *(f"checkpoints/step-00000012/{name} is missing" for name in TENSORS),
        "encoder/encoder.json is missing",
        "metrics.jsonl differs in its steps or losses",
    ]
    half = write_run(tmp_path / "half")
    (half / "checkpoints" / "damaged-step-00000009").mkdir()
    write_log(half, STEPS, loss=1.5)
    assert differences(half, reference, STEPS) == [
        "metrics.jsonl differs in its steps or losses",
        "damaged-step-00000009 was taken for a checkpoint",
    ]


def test_instants_and_victims_are_a_function_of_the_seed() -> None:
    first = draw_aims(TARGETS, np.random.default_rng([7, 0]))
    assert first == draw_aims(TARGETS, np.random.default_rng([7, 0]))
    assert first != draw_aims(TARGETS, np.random.default_rng([8, 0]))
    assert all(0 <= aim.fraction < 1 for aim in first)
    assert {aim.victim for aim in first} == {"all", "rank", "launcher"}
    assert {aim.victim for aim in first if aim.target == "birth"} == {"launcher"}


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=str)
def test_each_launcher_gets_the_same_script_and_arguments(launcher: Launcher, tmp_path: Path) -> None:
    arguments = training_arguments("data", tmp_path, STEPS)
    words = launcher.command(29500, arguments)
    assert Path(words[-len(arguments) - 1]).samefile(Path(__file__).resolve().parents[2] / "train" / "pretrain.py")
    assert words[-len(arguments) :] == arguments
    assert Path(words[0]).exists()


def test_a_child_that_its_parent_left_behind_is_found_and_ended(tmp_path: Path, mark: str) -> None:
    script = "import subprocess; subprocess.Popen(['sleep', '60'])"
    parent = start([sys.executable, "-c", script], mark, tmp_path / "output")
    assert parent.wait(30) == 0
    (orphan,) = marked(mark)
    assert (orphan.words, orphan.role) == (("sleep", "60"), "not a rank")
    seconds, left = reap(parent, mark, seconds=0.3)
    assert left == [orphan]
    assert seconds >= 0.3
    assert marked(mark) == []


def test_all_processes_stand_still_until_they_are_sent_on(tmp_path: Path, mark: str) -> None:
    counter = tmp_path / "counter"
    script = f"while :; do echo >> {counter}; done"
    shells = [start(["sh", "-c", script], mark, tmp_path / "output") for _ in range(2)]
    while not counter.exists():
        time.sleep(0.01)
    assert {process.pid for process in freeze(mark)} == {shell.pid for shell in shells}
    size = counter.stat().st_size
    time.sleep(0.1)
    assert counter.stat().st_size == size
    for process in marked(mark):
        send(process.pid, signal.SIGCONT)
    deadline = time.monotonic() + 10
    while counter.stat().st_size == size and time.monotonic() < deadline:
        time.sleep(0.01)
    assert counter.stat().st_size > size
    kill_all(mark)
    assert [shell.wait(10) for shell in shells] == [-signal.SIGKILL] * 2


def test_ranks_are_those_that_run_the_script_in_their_order(tmp_path: Path, mark: str) -> None:
    script = tmp_path / "pretrain.py"
    script.write_text("import time; time.sleep(60)")
    launcher = start(["sleep", "60"], mark, tmp_path / "output")
    started = [start([sys.executable, "-u", str(script)], mark, tmp_path / "output", RANK=rank) for rank in ("1", "0")]
    deadline = time.monotonic() + 10
    while len(ranks(mark)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [process.pid for process in ranks(mark)] == [process.pid for process in reversed(started)]
    assert [process.role for process in ranks(mark)] == ["rank 0", "rank 1"]
    kill_all(mark)
    for process in (launcher, *started):
        process.wait(10)


def test_a_port_is_free_when_nobody_listens() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not can_listen(port)
    assert can_listen(port)


def test_the_summary_counts_by_phase_and_world_size() -> None:
    kills = [make_kill(1), make_kill(2, 2, 7.25), make_kill(3, where="start-up")]
    crash = Crash(number=1, restart=0, rank=1, phase="training", step=4, goes_on_from=3, restart_seconds=6.5)
    lines = summary(kills, [crash], [], 90.0)
    assert "training                 1        1     2      0" in lines
    assert "all                      2        1     3      0" in lines
    assert "longest until all processes were gone, 2 ranks: 7.2 s (kill 2, rank, training)" in lines
    assert "1 crashes under torchrun (training 1); all ranks started again within 6.5 s" in lines
    assert lines[-1] == "every run ended in the weights and losses of the one that was not killed"


def test_the_summary_names_what_failed() -> None:
    lines = summary([make_kill(1)], [], ["run-04: model.safetensors differs"], 1.0)
    assert lines[-2:] == ["FAULT: run-04: model.safetensors differs", "1 faults"]


def test_unusable_settings_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").touch()
    (tmp_path / "manifest.json").touch()
    for flags, reason in (
        ([f"--data.dir={tmp_path / 'none'}"], "no data set"),
        ([f"--data.dir={tmp_path}", f"--output={tmp_path}"], "not empty"),
        (["--kills=-1"], "kills"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(flags)
        said = capsys.readouterr().err
        assert stopped.value.code == 2
        assert reason in said
        assert said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_crashed_runs_end_in_the_same_weights(shards: Path, tmp_path: Path) -> None:
    few = ["--kills=4", "--soak=2", "--writes=1", "--births=0", "--exports=0", "--ends=0", "--kills_per_run=2"]
    done = subprocess.run(
        [sys.executable, "-m", "ops.chaos", *few, f"--data.dir={shards}", f"--output={tmp_path / 'out'}", "--seed=1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "chaos.json").read_text())
    assert len(report["kills"]) >= 5
    assert len(report["crashes"]) == 2
    assert any(kill["phase"] == "checkpoint write" for kill in report["kills"])
