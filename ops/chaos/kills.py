"""Runs that are killed at drawn instants and started again by the same command, until they end."""

import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ops.chaos.processes import Process, freeze, kill_all, ranks, send, wait_for
from ops.chaos.run import LAUNCHERS, has_stepped, look, phase
from ops.chaos.victim import Session, Start, Victim, prepare

_MOST_FAULTS = 10
"""After so many nothing more is killed."""
_SKIPPED_WRITES = 4
"""An aim at a checkpoint lets fewer than so many pass: a run that is always killed in its first goes nowhere."""
_AIM_SECONDS = 120.0
"""For what is aimed at to begin."""

_BIRTH_SECONDS = 0.25

_STEPS_AFTER = 3
"""More than so many steps after its launcher died, a survivor has not noticed."""

Target = Literal["any", "birth", "checkpoint write", "export", "end"]


@dataclass(frozen=True, kw_only=True)
class Aim:
    """When and whom to kill, as drawn before anything runs."""

    target: Target
    """any: an instant of the wall time that the start would take. Else one of a short time that begins with an event
    which is watched for: birth, all ranks are there; checkpoint write, one has begun; export, the last one is complete;
    end, the last step is made."""
    fraction: float
    """Of that time, in [0, 1)."""
    skipped_writes: int
    """Checkpoints that an aim at one lets pass."""
    victim: str
    """all, rank or launcher."""
    rank: float
    """Which one, as a part of their number, in [0, 1)."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What one kill came to."""

    number: int
    launcher: str
    world_size: int
    target: str
    victim: str
    phase: str
    step: int
    """Updates made when it came."""
    goes_on_from: int
    """Step of the newest complete checkpoint once all processes were gone."""
    vanish_seconds: float
    """From the kill until no process of the run was left."""


def draw_aims(targets: Sequence[Target], random: np.random.Generator) -> list[Aim]:
    """One for each target; the same for the same state of the generator."""
    return [
        Aim(
            target=target,
            fraction=random.random(),
            skipped_writes=int(random.integers(_SKIPPED_WRITES)),
            victim="launcher" if target == "birth" else str(random.choice(["all", "rank", "launcher"])),
            rank=random.random(),
        )
        for target in targets
    ]


def kill_runs(session: Session, aims: deque[Aim], kills_per_run: int, told: Callable[[Kill], None]) -> None:
    """Begin runs, by each launcher in turn, until all aims are carried out; each comes to its end.

    Args:
        session: with a reference for each launcher.
        aims: taken from the left; `told` may append more.
        kills_per_run: after so many a run is left alone, as after the kill that leaves its last checkpoint.
        told: gets each kill.
    """
    runs = kills = 0
    while aims and len(session.faults) < _MOST_FAULTS:
        victim = prepare(session, LAUNCHERS[runs % len(LAUNCHERS)])
        runs += 1
        last_kill = kills + kills_per_run
        running = victim.start()
        # Not when all that is left is to say that the end is reached already: such kills would prove little.
        while aims and kills < last_kill and running.before.checkpoint < session.steps:
            kill = _kill(victim, running, aims[0], kills + 1)
            if kill is None:  # the run has ended before; earlier in the next one
                aims[0] = replace(aims[0], fraction=aims[0].fraction / 2, skipped_writes=aims[0].skipped_writes // 2)
                break
            aims.popleft()
            kills += 1
            told(kill)
            running = victim.start()
        victim.finish(running)


def _kill(victim: Victim, running: Start, aim: Aim, number: int) -> Kill | None:
    """Carry out an aim; None where the run has ended before."""
    session = victim.session
    if not _await_instant(victim, running, aim):
        return None
    frozen = freeze(session.mark)
    now, training = look(victim.run_dir), ranks(session.mark)
    if not frozen or running.ended:
        _send_on(frozen)
        return None
    chosen = aim.victim if victim.launcher.name != "python" else "all"
    if chosen == "rank" and not training:
        chosen = "launcher"
    moment = time.monotonic()
    _send_kill(chosen, aim, running, training, session.mark)
    _send_on(frozen)
    victim.clear(running, f"kill {number} ({victim.name}, {chosen})")
    vanish_seconds = time.monotonic() - moment
    after = look(victim.run_dir)
    if running.process.returncode == 0:
        session.fault(f"kill {number} ({victim.name}, {chosen}): the launcher says that all is well")
    made_before = now.step if has_stepped(running.before, now) else running.before.checkpoint
    if has_stepped(running.before, after) and after.step > made_before + _STEPS_AFTER:
        session.fault(f"kill {number} ({victim.name}, {chosen}): survivors went on to step {after.step}")
    return Kill(
        number=number,
        launcher=victim.launcher.name,
        world_size=victim.launcher.world_size,
        target=aim.target,
        victim=chosen,
        phase=phase(running.before, now, session.steps),
        step=now.step,
        goes_on_from=after.checkpoint,
        vanish_seconds=vanish_seconds,
    )


def _send_kill(chosen: str, aim: Aim, running: Start, training: Sequence[Process], mark: str) -> None:
    if chosen == "rank":
        send(training[int(aim.rank * len(training))].pid, signal.SIGKILL)
    elif chosen == "launcher":
        send(running.process.pid, signal.SIGKILL)
    else:
        kill_all(mark)


def _send_on(frozen: Sequence[Process]) -> None:
    for process in frozen:
        send(process.pid, signal.SIGCONT)


def _await_instant(victim: Victim, running: Start, aim: Aim) -> bool:
    """Wait for the instant that is meant; False if the run ends before."""
    session, before = victim.session, running.before
    reference = session.references[str(victim.launcher)]
    missing = session.steps - before.checkpoint
    lengths: dict[Target, float] = {
        "any": reference.start_seconds + missing * reference.step_seconds + reference.end_seconds,
        "birth": _BIRTH_SECONDS,
        "checkpoint write": reference.write_seconds,
        "export": reference.write_seconds,
        "end": reference.end_seconds,
    }
    writes: set[str] = set()

    def has_begun() -> bool | None:
        if aim.target == "birth":
            begun = len(ranks(session.mark)) == victim.launcher.world_size
        else:
            now = look(victim.run_dir)
            writes.update(name for name, _, _ in now.partial - before.partial)
            begun = {
                "checkpoint write": len(writes) > aim.skipped_writes,
                "export": before.checkpoint < session.steps <= now.checkpoint,
                "end": has_stepped(before, now) and now.step >= session.steps,
            }[aim.target]
        return True if begun else (False if running.ended else None)

    begin = running.began
    if aim.target != "any":
        if not wait_for(has_begun, _AIM_SECONDS):
            return False
        begin = time.monotonic()
    instant = begin + aim.fraction * lengths[aim.target]
    return wait_for(lambda: True if time.monotonic() >= instant else (False if running.ended else None), 600.0) is True
