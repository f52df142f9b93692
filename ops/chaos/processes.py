"""All processes of a run, whoever started them: found by a mark in their environment, stopped together, killed.

A process inherits its environment from the one that started it and keeps it when that one dies: the mark finds orphans,
too. Linux only.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

MARK = "DIPTYCH_CHAOS"
POLL_SECONDS = 0.001
_FREEZE_SECONDS = 10.0
_REAP_SECONDS = 10.0
_ENDED = "ZX"
"""States in which a process is only an entry in a table."""

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Process:
    """What /proc says of one."""

    pid: int
    parent: int
    words: tuple[str, ...]
    """Its command line."""
    environment: dict[str, str]
    """That it was started with."""

    @property
    def trains(self) -> bool:
        """It runs the training script itself, and is not its launcher."""
        script = next((word for word in self.words[1:] if not word.startswith("-")), "")
        return script.endswith("pretrain.py")

    @property
    def role(self) -> str:
        """As a person would name it."""
        return f"rank {self.environment.get('RANK', '0')}" if self.trains else "not a rank"


def start(command: Sequence[str], mark: str, output: Path, **environment: str) -> "subprocess.Popen[bytes]":
    """Start a command in a session of its own; it and all that it starts bear the mark.

    Args:
        command: program and arguments.
        mark: value of the environment variable MARK.
        output: file to which stdout and stderr are appended.
        environment: further variables.
    """
    with output.open("ab") as file:
        return subprocess.Popen(  # noqa: S603  # our own module
            command,
            env=os.environ | environment | {MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def marked(mark: str) -> list[Process]:
    """All processes that bear the mark and have not ended, by process id."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            process = _read(directory, mark)
            if process is not None:
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def ranks(mark: str) -> list[Process]:
    """Those that train, by rank; processes that these have started are not among them."""
    training = [process for process in marked(mark) if process.trains]
    pids = {process.pid for process in training}
    outer = [process for process in training if process.parent not in pids]
    return sorted(outer, key=lambda process: int(process.environment.get("RANK", "0")))


def freeze(mark: str) -> list[Process]:
    """Stop all of them, as they stand, and those that they start meanwhile.

    Returns:
        Those that are stopped; empty if the last one has ended.

    Raises:
        TimeoutError: one does not stop within ten seconds.
    """
    stopped: set[int] = set()

    def all_stopped() -> list[Process] | None:
        alive = marked(mark)
        for process in alive:
            if process.pid not in stopped:
                send(process.pid, signal.SIGSTOP)
        new = {process.pid for process in alive} - stopped
        stopped.update(new)
        return None if new or not all(_is_stopped(process.pid) for process in alive) else alive

    frozen = wait_for(all_stopped, _FREEZE_SECONDS)
    if frozen is None:
        raise TimeoutError(f"processes {sorted(stopped)} do not stop")
    return frozen


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process, which may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def reap(process: "subprocess.Popen[bytes]", mark: str, seconds: float) -> tuple[float, list[Process]]:
    """Wait until all are gone; what is left then is killed.

    Args:
        process: the launcher.
        mark: of all.
        seconds: that they are given.

    Returns:
        Seconds that it took, and those that were left.
    """
    begin = time.monotonic()

    def gone() -> bool | None:
        process.poll()  # or it would stay as a zombie
        return None if marked(mark) else True

    wait_for(gone, seconds, poll_seconds=0.02)
    took, left = time.monotonic() - begin, marked(mark)
    kill_all(mark)
    process.wait(_REAP_SECONDS)
    return took, left


def kill_all(mark: str) -> None:
    """End all that bear the mark.

    Raises:
        TimeoutError: one outlives SIGKILL by ten seconds.
    """

    def killed() -> bool | None:
        alive = marked(mark)
        for process in alive:
            send(process.pid, signal.SIGKILL)
        return None if alive else True

    if wait_for(killed, _REAP_SECONDS, poll_seconds=0.02) is None:
        raise TimeoutError(f"processes {[process.pid for process in marked(mark)]} outlive SIGKILL")


def wait_for(answer: Callable[[], Found | None], seconds: float, poll_seconds: float = POLL_SECONDS) -> Found | None:
    """Ask again and again until there is an answer; None if there is none in time."""
    deadline = time.monotonic() + seconds
    while (found := answer()) is None and time.monotonic() < deadline:
        time.sleep(poll_seconds)
    return found


def can_listen(port: int) -> bool:
    """Whether nobody listens on a port; connections of the past that the kernel still remembers do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError:
            return False
    return True


def draw_port(random: "np.random.Generator") -> int:
    """A port to listen on, below those that the kernel gives to outgoing connections."""
    return next(port for port in map(int, random.integers(15000, 32000, 1000)) if can_listen(port))


def _read(directory: Path, mark: str) -> Process | None:
    try:
        entries = (directory / "environ").read_bytes().decode(errors="replace").split("\0")
        if f"{MARK}={mark}" not in entries:
            return None
        state, parent = _state(directory)
        words = tuple((directory / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended, or is another user's
        return None
    if state in _ENDED:
        return None
    environment = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return Process(pid=int(directory.name), parent=parent, words=words, environment=environment)


def _is_stopped(pid: int) -> bool:
    """Whether no thread of a process runs; true of one that has ended."""
    try:
        return all(_state(thread)[0] in f"Tt{_ENDED}" for thread in Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return True


def _state(directory: Path) -> tuple[str, int]:
    """State letter and parent's process id."""
    state, parent = (directory / "stat").read_text().rpartition(")")[2].split()[:2]
    return state, int(parent)
