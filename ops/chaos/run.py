"""A run that is there to be killed: its command, what its directory shows at a moment, what must come out of it."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.checkpoint_files import TENSORS, list_checkpoints

PHASES = ("start-up", "training", "checkpoint write", "end")
CHECKPOINT_EVERY_STEPS = 3
_SCRIPT = str(Path(__file__).resolve().parents[2] / "train" / "pretrain.py")
# A quarter of a ResNet-18's width: small enough for many starts, large enough that writing it takes some time.
_FLAGS = (
    "--encoder.name=resnet18",
    "--encoder.stem=cifar",
    "--encoder.width=0.25",
    "--head.dim=16",
    "--views.size=32",
    "--optimizer.base_lr=0.2",
    "--loss.temperature=0.5",
    "--schedule.epochs=20",
    "--schedule.warmup_epochs=1",
    "--global_batch=16",
    f"--checkpoint.every_steps={CHECKPOINT_EVERY_STEPS}",
    "--metrics.log_every_steps=1",  # a line per step tells how far it has come
    "--metrics.port=0",
    "--precision=fp32",
    "--cpu_threads=1",
)
_BEGUN = re.compile(r"^(?:resuming after step (\d+) |starting in |step (\d+) of \d+ is reached already)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """How the processes of a run are started."""

    name: str
    world_size: int
    environment: tuple[tuple[str, str], ...] = ()

    def command(self, port: int, arguments: list[str], *flags: str) -> list[str]:
        """The whole command line.

        Args:
            port: where ranks meet.
            arguments: of the training script.
            flags: further ones of the launcher.
        """
        count = str(self.world_size)
        if self.name == "python":
            return [sys.executable, _SCRIPT, *arguments]
        program = str(Path(sys.executable).with_name(self.name))
        if self.name == "torchrun":
            return [program, "--nproc_per_node", count, "--master_port", str(port), *flags, _SCRIPT, *arguments]
        machine = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", *flags]
        ranks = ["--num_processes", count]
        if self.world_size > 1:
            ranks = ["--multi_gpu", *ranks, "--main_process_port", str(port)]
        return [program, "launch", *ranks, *machine, _SCRIPT, *arguments]

    def __str__(self) -> str:
        return f"{self.name} x{self.world_size}"


LAUNCHERS = (
    Launcher(name="python", world_size=1),
    Launcher(name="torchrun", world_size=2),
    Launcher(name="accelerate", world_size=1),
    Launcher(name="accelerate", world_size=2, environment=(("ACCELERATE_USE_CPU", "true"),)),
)


def training_arguments(data_dir: str, run_dir: Path, steps: int) -> list[str]:
    """Of the training script."""
    return [*_FLAGS, f"--data.dir={data_dir}", f"--stop_after_steps={steps}", f"--run_dir={run_dir}"]


@dataclass(frozen=True, kw_only=True)
class Look:
    """A run directory at one moment."""

    step: int
    """Of the last whole line of metrics.jsonl: updates made; 0 without."""
    log: int | None
    """Inode of metrics.jsonl; a start that finds lines after its checkpoint replaces it once, before its first step."""
    partial: frozenset[tuple[str, int, int]]
    """Checkpoints half written: name, inode and time of change. One that a kill has left behind stays the same."""
    checkpoint: int
    """Step of the newest complete one; 0 without."""


def look(run_dir: Path) -> Look:
    """See what there is."""
    log, checkpoints = run_dir / "metrics.jsonl", run_dir / "checkpoints"
    try:
        inode, step = log.stat().st_ino, _last_step(log)
    except FileNotFoundError:
        inode, step = None, 0
    complete = list_checkpoints(checkpoints)
    newest = int(complete[0].name.split("-")[1]) if complete else 0
    return Look(step=step, log=inode, partial=_partial(checkpoints), checkpoint=newest)


def phase(before: Look, now: Look, last_step: int) -> str:
    """Which of PHASES a process is in.

    Args:
        before: when it was started.
        now: while it stands still.
        last_step: of the run.
    """
    if now.partial - before.partial:
        return "checkpoint write"
    if not has_stepped(before, now):
        return "start-up"
    return "end" if now.step >= last_step else "training"


def has_stepped(before: Look, now: Look) -> bool:
    """Whether a process has made a step of its own since it was started, by the same two looks."""
    forgotten = before.step <= before.checkpoint or now.log != before.log
    return forgotten and now.step > before.checkpoint


def begun_at(output: str) -> int | None:
    """The step that a process says it goes on from, 0 for the start; None if it has not come so far."""
    found = _BEGUN.search(output)
    return int(found[1] or found[2] or 0) if found else None


def differences(run_dir: Path, reference: Path, last_step: int) -> list[str]:
    """What a finished run left that is not, bit by bit, what the one left that nobody has killed."""
    checkpoint = Path("checkpoints") / f"step-{last_step:08d}"
    files = [checkpoint / name for name in TENSORS] + [Path("encoder") / path.name for path in _encoder(reference)]
    found = [f"{file} {fault}" for file in files if (fault := _unlike(run_dir / file, reference / file))]
    if _losses(run_dir) != _losses(reference):
        found.append("metrics.jsonl differs in its steps or losses")
    found += [f"{path.name} was taken for a checkpoint" for path in (run_dir / "checkpoints").glob("damaged-*")]
    return found


def _encoder(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "encoder").iterdir())


def _unlike(path: Path, reference: Path) -> str:
    if not path.exists():
        return "is missing"
    return "" if path.read_bytes() == reference.read_bytes() else "differs"


def _losses(run_dir: Path) -> list[Any]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def _last_step(log: Path) -> int:
    whole, _, _ = log.read_bytes().rpartition(b"\n")
    return int(json.loads(whole.rpartition(b"\n")[2])["step"]) if whole else 0


def _partial(checkpoints: Path) -> frozenset[tuple[str, int, int]]:
    found = set()
    for path in checkpoints.glob(".step-*.partial"):
        try:
            status = path.stat()
        except FileNotFoundError:  # it has just become whole
            continue
        found.add((path.name, status.st_ino, status.st_mtime_ns))
    return frozenset(found)
