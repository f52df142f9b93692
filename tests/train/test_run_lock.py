"""One run at a time in a run directory, whatever became of the one before."""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from train.errors import RunError
from train.run_lock import RunLock

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from train.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.take()
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock of `tmp_path / run`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_by_pid_and_host_and_let_in_after_kill_9(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    for _ in range(2):  # to have been refused does not set the other's lock free
        with (
            RunLock(tmp_path / "run") as lock,
            pytest.raises(RunError, match=f"in use by process {holder.pid} on {platform.node()}; wait") as raised,
        ):
            lock.take()
        assert "\n" not in str(raised.value)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunLock(tmp_path / "run") as lock:
        lock.take()
        said = (tmp_path / "run" / ".lock").read_text()
        assert json.loads(said) == {"pid": os.getpid(), "host": platform.node()}


def test_the_holder_need_not_have_said_who_it_is(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    for content in ("", "{}", "[1]", "\0\0"):
        (tmp_path / "run" / ".lock").write_text(content)
        with RunLock(tmp_path / "run") as lock, pytest.raises(RunError, match="in use by another process"):
            lock.take()


def test_a_child_does_not_go_on_holding_the_lock(tmp_path: Path) -> None:
    child_of_holder = HOLD.replace("time.sleep(60)", "import os\nif os.fork() == 0: time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-c", child_of_holder, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        process_group=0,
    ) as process:
        process.wait()
        with RunLock(tmp_path / "run") as lock:
            lock.take()
        os.killpg(process.pid, signal.SIGKILL)


def test_a_directory_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        RunLock(tmp_path / "file" / "run") as lock,
        pytest.raises(RunError, match="Not a directory; name a directory that can be written to"),
    ):
        lock.take()
    (tmp_path / "run" / ".lock").mkdir(parents=True)
    with RunLock(tmp_path / "run") as lock, pytest.raises(RunError, match="Is a directory"):
        lock.take()
