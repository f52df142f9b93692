"""Ranks of a run as separate processes, started as a scheduler does it: by environment variables, no launcher."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "--encoder.name=resnet18",
    "--encoder.stem=cifar",
    "--encoder.width=0.0625",
    "--head.dim=16",
    "--views.size=32",
    "--optimizer.base_lr=0.2",
    "--loss.temperature=0.5",
    "--schedule.epochs=6",
    "--schedule.warmup_epochs=1",
    "--global_batch=16",
    "--checkpoint.every_steps=5",
    "--metrics.log_every_steps=1",
    "--metrics.port=0",
    "--cpu_threads=1",
    "--precision=fp32",
]


@dataclass(frozen=True)
class StartedRanks:
    """The processes, and where they leave their marks."""

    processes: "list[subprocess.Popen[str]]"
    directory: Path

    def wait_for(self, name: str, seconds: float = 60) -> None:
        """Until a rank has left a file of this name."""
        deadline = time.monotonic() + seconds
        while not (self.directory / name).exists():
            assert time.monotonic() < deadline, f"{name} never came"
            assert all(process.poll() is None for process in self.processes), self.ends()
            time.sleep(0.02)

    def wait_until_they_listen(self, number: int) -> None:
        """Until every rank has a handler for a signal: in a hexadecimal mask, as Linux tells it."""
        for process in self.processes:
            caught = ""
            while not caught or not int(caught, 16) >> (number - 1) & 1:
                assert process.poll() is None, self.ends()
                time.sleep(0.02)
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                caught = next(line.partition(":")[2] for line in lines if line.startswith("SigCgt"))

    def wait_for_step(self, step: int) -> None:
        """Until every rank has made so many steps."""
        for rank in range(len(self.processes)):
            self.wait_for(f"steps-rank-{rank}")
            while len(self.steps(rank)) < step:
                assert self.processes[rank].poll() is None, self.ends()
                time.sleep(0.02)

    def signal(self, number: int) -> None:
        """To every rank."""
        for process in self.processes:
            process.send_signal(number)

    def kill(self) -> None:
        """Whatever ranks are left, at the end of a test."""
        for process in self.processes:
            with process:  # waits, and closes its pipe
                process.kill()

    def ends(self, seconds: float = 60) -> list[tuple[int, str]]:
        """Exit status and what stood on stderr, by rank."""
        deadline = time.monotonic() + seconds
        try:
            errors = [process.communicate(timeout=deadline - time.monotonic())[1] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [(process.returncode, error) for process, error in zip(self.processes, errors, strict=True)]

    def steps(self, rank: int) -> list[int]:
        """That a rank has made."""
        return [int(line) for line in (self.directory / f"steps-rank-{rank}").read_text().split()]


def start_ranks(
    place: str, directory: Path, data: Path, flags: Sequence[Sequence[str]], world_size: int | None = None
) -> StartedRanks:
    """Start as many ranks as there are lists of flags; `place` and `directory` are those of stoppable_run.py."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank, more in enumerate(flags):
        size = str(world_size or len(flags))
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        where = [f"--data.dir={data}", f"--run_dir={directory / 'run'}"]
        processes.append(
            subprocess.Popen(
                [sys.executable, "tests/stoppable_run.py", place, str(directory), *TINY, *where, *more],
                cwd=ROOT,
                env=os.environ | environment | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return StartedRanks(processes, directory)
