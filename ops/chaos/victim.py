"""A run that is started as often as it is killed, and the one beside it that nobody kills."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from ops.chaos.processes import can_listen, draw_port, kill_all, reap, start, wait_for
from ops.chaos.run import Launcher, Look, begun_at, differences, look, training_arguments

_UNDISTURBED_SECONDS = 240.0
"""For a start to come to its end, when nothing kills it."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A run that nobody has killed, and how long its parts took."""

    run_dir: Path
    start_seconds: float
    """Until its first line."""
    step_seconds: float
    write_seconds: float
    """Median over its checkpoints."""
    end_seconds: float
    """From its last line until all processes were gone."""


@dataclass(kw_only=True)
class Session:
    """What all parts of the command share."""

    directory: Path
    """Of all runs; exists."""
    data_dir: str
    steps: int
    """Length of each run."""
    vanish_seconds: float
    """That surviving processes have."""
    random: np.random.Generator
    """Draws ports; instants and victims have a generator of their own, so that what happens does not change them."""
    mark: str
    """Of all processes."""
    references: dict[str, Reference] = field(default_factory=dict)
    """By launcher."""
    faults: list[str] = field(default_factory=list)

    def fault(self, what: str) -> None:
        """Note it, and say it."""
        self.faults.append(what)
        print(f"FAULT: {what}", flush=True)


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a run's command."""

    process: "subprocess.Popen[bytes]"
    """The launcher."""
    began: float
    """On the monotonic clock."""
    before: Look
    output: Path
    output_offset: int
    """Bytes of the output that are older."""

    @property
    def ended(self) -> bool:
        """Whether the launcher has."""
        return self.process.poll() is not None

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.output.read_bytes()[self.output_offset :].decode(errors="replace")


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A run: a directory, a launcher and a port."""

    session: Session
    launcher: Launcher
    run_dir: Path
    port: int

    @property
    def name(self) -> str:
        """Of the run."""
        return self.run_dir.name

    def start(self, *flags: str) -> Start:
        """Start the command, the same every time; flags are further ones of the launcher."""
        output = self.run_dir.with_suffix(".log")
        before, size = look(self.run_dir), output.stat().st_size if output.exists() else 0
        arguments = training_arguments(self.session.data_dir, self.run_dir, self.session.steps)
        command = self.launcher.command(self.port, arguments, *flags)
        began = time.monotonic()
        process = start(command, self.session.mark, output, **dict(self.launcher.environment))
        return Start(process=process, began=began, before=before, output=output, output_offset=size)

    def finish(self, running: Start) -> None:
        """Nobody kills this start: it must end, with status 0, and leave what the reference left."""
        session = self.session
        limit = _UNDISTURBED_SECONDS - (time.monotonic() - running.began)
        if wait_for(lambda: running.ended or None, limit, poll_seconds=0.01) is None:
            session.fault(f"{self.name}: has not ended {_UNDISTURBED_SECONDS:g} s after its start")
            kill_all(session.mark)
        self.clear(running, self.name)
        if running.process.returncode:
            last_line = running.text.strip().rpartition("\n")[2]
            session.fault(f"{self.name}: ended with status {running.process.returncode}: {last_line}")
            return
        reference = session.references.get(str(self.launcher))
        for difference in differences(self.run_dir, reference.run_dir, session.steps) if reference else []:
            session.fault(f"{self.name}: {difference}")

    def clear(self, running: Start, name: str) -> float:
        """All processes must go by themselves, leave the port free, and have gone on from where they should.

        Returns:
            Seconds until none was left.
        """
        session = self.session
        seconds, left = reap(running.process, session.mark, session.vanish_seconds)
        if left:
            who = ", ".join(f"process {process.pid} ({process.role})" for process in left)
            session.fault(f"{name}: {who} still there after {session.vanish_seconds:g} s")
        if not can_listen(self.port):
            session.fault(f"{name}: port {self.port} is not free")
        begun = begun_at(running.text)
        if begun is not None and begun != running.before.checkpoint:
            session.fault(f"{name}: had gone on from step {begun}, not from {running.before.checkpoint}")
        return seconds


def prepare(session: Session, launcher: Launcher) -> Victim:
    """A run that has not begun."""
    number = len(list(session.directory.glob("*.log")))
    run_dir = session.directory / f"run-{number:02d}-{launcher.name}-{launcher.world_size}"
    return Victim(session=session, launcher=launcher, run_dir=run_dir, port=draw_port(session.random))


def run_reference(session: Session, launcher: Launcher) -> None:
    """Let a run come to its end, note how long its parts take, and compare it with others of as many ranks."""
    victim = prepare(session, launcher)
    running = victim.start()
    steps: dict[int, float] = {}
    writes: dict[str, list[float]] = {}

    def watch() -> bool | None:
        now, moment = look(victim.run_dir), time.monotonic()
        steps.setdefault(now.step, moment)
        for name, _, _ in now.partial:
            writes.setdefault(name, []).append(moment)
        return running.ended or None

    wait_for(watch, _UNDISTURBED_SECONDS)
    victim.finish(running)
    first, last = min((step for step in steps if step), default=0), max(steps)
    if last != session.steps or first == last:
        session.fault(f"{victim.name}: reached step {last} of {session.steps} without being killed")
        return
    reference = Reference(
        run_dir=victim.run_dir,
        start_seconds=steps[first] - running.began,
        step_seconds=(steps[last] - steps[first]) / (last - first),
        write_seconds=median(seen[-1] - seen[0] for seen in writes.values()),
        end_seconds=time.monotonic() - steps[last],
    )
    for difference in _from_others(session, launcher, victim.run_dir):
        session.fault(f"{victim.name}, not killed: {difference}")
    session.references[str(launcher)] = reference
    print(
        f"{launcher}, not killed: {reference.start_seconds:.1f} s to the first step, {reference.step_seconds:.2f} s "
        f"per step, {1000 * reference.write_seconds:.0f} ms per checkpoint, {reference.end_seconds:.1f} s to end",
        flush=True,
    )


def _from_others(session: Session, launcher: Launcher, run_dir: Path) -> Iterator[str]:
    """How a reference differs from those of other launchers with as many ranks."""
    for name, other in session.references.items():
        if name.endswith(f" x{launcher.world_size}"):
            for difference in differences(run_dir, other.run_dir, session.steps):
                yield f"{difference} (beside {name})"
