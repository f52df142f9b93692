"""A run of two ranks whose launcher forms the group anew, each time that one of them is killed."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ops.chaos.processes import Process, freeze, kill_all, marked, ranks, send
from ops.chaos.run import CHECKPOINT_EVERY_STEPS, LAUNCHERS, begun_at, look, phase
from ops.chaos.victim import Session, Start, Victim, prepare

TORCHRUN = next(launcher for launcher in LAUNCHERS if launcher.name == "torchrun")
_STILL_SECONDS = 60.0
"""Without a new process, a step or a checkpoint: the run hangs."""
_POLL_SECONDS = 0.02
_CHECKPOINTS_AHEAD = 6
"""Crashes come until so many checkpoints are due, so that one run lasts for several."""

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Crash:
    """What killing one rank came to."""

    number: int
    restart: int
    """How often the launcher had formed the group anew before."""
    rank: int
    phase: str
    step: int
    """Updates made when it came."""
    goes_on_from: int
    """Step of the newest complete checkpoint when the ranks were there again."""
    restart_seconds: float
    """From the kill until all ranks had been started again."""


def soak(session: Session, crashes: int, random: np.random.Generator, told: Callable[[Crash], None]) -> None:
    """Crash so often in all; a run that ends before is followed by another, and each must come to its end.

    Args:
        session: with a reference for torchrun.
        crashes: their number.
        random: draws instants and ranks.
        told: gets each crash.
    """
    done, faults_before = 0, len(session.faults)
    while done < crashes and len(session.faults) == faults_before:
        victim = prepare(session, TORCHRUN)
        running = victim.start("--max_restarts", str(crashes - done))
        restart = 0
        while done < crashes:
            crash = _crash(victim, running, restart, done + 1, random)
            if crash is None:
                break
            done, restart = done + 1, restart + 1
            told(crash)
        _let_end(victim, running)


def _crash(victim: Victim, running: Start, restart: int, number: int, random: np.random.Generator) -> Crash | None:
    """Kill a rank at a drawn instant and see the group formed anew; None where the run ends before, or hangs."""
    session, reference = victim.session, victim.session.references[str(TORCHRUN)]
    if not _formed(victim, running, restart):
        return None
    formed, before, offset = time.monotonic(), look(victim.run_dir), len(running.text)
    soon = _CHECKPOINTS_AHEAD * CHECKPOINT_EVERY_STEPS * reference.step_seconds
    instant = formed + random.random() * (reference.start_seconds + soon)
    drawn = random.random()
    if not _while_it_moves(victim, lambda: True if time.monotonic() >= instant else (False if running.ended else None)):
        return None
    frozen, training = freeze(session.mark), ranks(session.mark)
    now, moment, begun = look(victim.run_dir), time.monotonic(), begun_at(running.text[offset:])
    chosen = training[int(drawn * len(training))] if training else None
    if chosen is not None:
        send(chosen.pid, signal.SIGKILL)
    for process in frozen:
        send(process.pid, signal.SIGCONT)
    if chosen is None:  # the ranks have just ended
        return None
    rank = int(chosen.environment["RANK"])
    if begun not in (None, before.checkpoint):
        session.fault(f"{victim.name}, restart {restart}: had gone on from step {begun}, not from {before.checkpoint}")
    if not _formed(victim, running, restart + 1):
        session.fault(f"crash {number} ({victim.name}, rank {rank}): the group is not formed anew")
        return None
    return Crash(
        number=number,
        restart=restart,
        rank=rank,
        phase=phase(before, now, session.steps),
        step=now.step,
        goes_on_from=look(victim.run_dir).checkpoint,
        restart_seconds=time.monotonic() - moment,
    )


def _let_end(victim: Victim, running: Start) -> None:
    if _while_it_moves(victim, lambda: running.ended or None) is None:
        victim.session.fault(f"{victim.name}: hangs")
        kill_all(victim.session.mark)
    victim.finish(running)


def _formed(victim: Victim, running: Start, restart: int) -> bool:
    """Wait until all ranks of one attempt are there; False if the run ends or hangs before."""

    def all_ranks() -> list[Process] | None:
        found = ranks(victim.session.mark)
        of_attempt = [rank for rank in found if rank.environment.get("TORCHELASTIC_RESTART_COUNT") == str(restart)]
        return of_attempt if len(of_attempt) == TORCHRUN.world_size else ([] if running.ended else None)

    return bool(_while_it_moves(victim, all_ranks))


def _while_it_moves(victim: Victim, answer: Callable[[], Found | None]) -> Found | None:
    """Ask again and again until there is an answer; None as soon as nothing has happened for too long."""
    seen, since = None, time.monotonic()
    while (found := answer()) is None:
        now = (look(victim.run_dir), [process.pid for process in marked(victim.session.mark)])
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > _STILL_SECONDS:
            return None
        time.sleep(_POLL_SECONDS)
    return found
