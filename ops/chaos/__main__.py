"""Prove that a run goes on: kill it at any instant, start the same command again, and compare what comes out.

    python -m ops.chaos --data.dir data/textures

Small runs on one and two CPU ranks, under each launcher, are killed at instants drawn over the wall time of a start,
and at some that are aimed at moments which are short: by SIGKILL, all processes, one rank, or the launcher. All are
stopped first, so that it is known what they were doing. What survives must go away by itself and leave its port free;
what the run leaves at its end must equal, bit by bit, what a run leaves that nobody kills. A second part crashes ranks
under `torchrun --max_restarts`. Exit status: 0 all held, 1 something did not, 2 refused.
"""

import json
import os
import secrets
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from ops.chaos.kills import Kill, Target, draw_aims, kill_runs
from ops.chaos.processes import kill_all
from ops.chaos.run import LAUNCHERS, PHASES
from ops.chaos.soak import TORCHRUN, Crash, soak
from ops.chaos.victim import Session, run_reference
from train.arguments import parse
from train.distributed import fail
from train.errors import RunError


@dataclass(frozen=True, kw_only=True)
class ChaosData:
    """What the runs learn from."""

    dir: str = "data/textures"
    """Data set directory made by `python -m pipelines.build_shards`."""


@dataclass(frozen=True, kw_only=True)
class ChaosConfig:
    """How much is killed. The default takes about twenty minutes on two cores."""

    data: ChaosData = field(default_factory=ChaosData)
    part: Literal["all", "kills", "soak"] = "all"
    """kills: runs that are started again by hand. soak: ranks that torchrun starts again."""
    kills: NonNegativeInt = 50
    """At instants drawn over the wall time of a start."""
    writes: NonNegativeInt = 10
    """At least so many kills inside checkpoint writes; so many more are aimed there, and further ones as they miss."""
    births: NonNegativeInt = 3
    """Kills aimed at the launcher, when its ranks have just been started and do not listen yet."""
    exports: NonNegativeInt = 3
    """Kills aimed at what comes after the last checkpoint: the encoder."""
    ends: NonNegativeInt = 3
    """Kills aimed at what comes after the last step."""
    kills_per_run: PositiveInt = 6
    """Then a run is left alone to come to its end."""
    soak: NonNegativeInt = 20
    """Crashes of a rank under torchrun --max_restarts."""
    steps: PositiveInt = 36
    """Updates of each run."""
    vanish_seconds: PositiveFloat = 60.0
    """After which whatever is left of a killed run is a fault."""
    seed: NonNegativeInt | None = None
    """Of instants and victims; unset, one is drawn and printed."""
    output: str = ""
    """Directory, made if it is missing, of all runs, their output and chaos.json; must be empty. Unset, a temporary
    one, which stays if something failed."""


def main(arguments: Sequence[str]) -> int:
    """Kill, compare, and print a table; returns the exit status."""
    begin = time.monotonic()
    try:
        config = parse(ChaosConfig, arguments, prog="chaos")
        session = open_session(config)
    except RunError as error:
        fail("chaos", error, show=True)
    seed = secrets.randbelow(2**32) if config.seed is None else int(config.seed)
    print(f"seed {seed}; runs and their output are in {session.directory}", flush=True)
    kills: list[Kill] = []
    crashes: list[Crash] = []
    try:
        for launcher in LAUNCHERS if config.part != "soak" else (TORCHRUN,):
            run_reference(session, launcher)
        if config.part != "soak" and not session.faults:
            _kill(session, config, np.random.default_rng([seed, 0]), kills)
        if config.part != "kills" and str(TORCHRUN) in session.references:
            _soak(session, config, np.random.default_rng([seed, 1]), crashes)
    finally:
        kill_all(session.mark)
    wall_seconds = time.monotonic() - begin
    report = {
        "seed": seed,
        "config": asdict(config),
        "references": {name: asdict(part) for name, part in session.references.items()},
        "kills": [asdict(kill) for kill in kills],
        "crashes": [asdict(crash) for crash in crashes],
        "faults": session.faults,
        "wall_seconds": wall_seconds,
    }
    (session.directory / "chaos.json").write_text(json.dumps(report, indent=1, default=str) + "\n")
    print("\n".join(summary(kills, crashes, session.faults, wall_seconds)), flush=True)
    return 1 if session.faults else 0


def open_session(config: ChaosConfig) -> Session:
    """Make the directory.

    Raises:
        RunError: there is no such data, or the directory cannot be used.
    """
    data_dir = Path(config.data.dir).resolve()
    if not (data_dir / "manifest.json").exists():
        raise RunError(f"data.dir = {config.data.dir}: no data set; build one with `python -m pipelines.build_shards`")
    try:
        directory = Path(config.output).resolve() if config.output else Path(tempfile.mkdtemp(prefix="diptych-chaos-"))
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise RunError(f"output = {directory}: not empty; name another directory")
    except OSError as error:
        raise RunError(f"output = {config.output}: {error.strerror}; name a directory that can be written to") from None
    return Session(
        directory=directory,
        data_dir=str(data_dir),
        steps=config.steps,
        vanish_seconds=config.vanish_seconds,
        random=np.random.default_rng(),
        mark=f"{os.getpid()}-{secrets.token_hex(4)}",
    )


def summary(kills: Sequence[Kill], crashes: Sequence[Crash], faults: Sequence[str], wall_seconds: float) -> list[str]:
    """Lines of a table by phase and world size, and what follows from it."""
    lines = []
    if kills:
        counts = Counter((kill.phase, kill.world_size) for kill in kills)
        aimed = Counter(kill.phase for kill in kills if kill.target != "any")
        lines += ["", f"{'kills':<18}{'1 rank':>8}{'2 ranks':>9}{'all':>6}{'aimed':>7}"]
        for phase in PHASES:
            one, two = counts[phase, 1], counts[phase, 2]
            lines.append(f"{phase:<18}{one:>8}{two:>9}{one + two:>6}{aimed[phase]:>7}")
        one, two = (sum(kill.world_size == size for kill in kills) for size in (1, 2))
        lines.append(f"{'all':<18}{one:>8}{two:>9}{len(kills):>6}{aimed.total():>7}")
        victims = Counter(kill.victim for kill in kills)
        lines.append("killed: " + ", ".join(f"{victim} {victims[victim]}" for victim in sorted(victims)))
        for size in sorted({kill.world_size for kill in kills}):
            slowest = max((kill for kill in kills if kill.world_size == size), key=lambda kill: kill.vanish_seconds)
            lines.append(
                f"longest until all processes were gone, {size} rank{'s' * (size > 1)}: {slowest.vanish_seconds:.1f} s "
                f"(kill {slowest.number}, {slowest.victim}, {slowest.phase})"
            )
    if crashes:
        phases = Counter(crash.phase for crash in crashes)
        longest = max(crash.restart_seconds for crash in crashes)
        where = ", ".join(f"{phase} {phases[phase]}" for phase in PHASES if phases[phase])
        lines.append(f"{len(crashes)} crashes under torchrun ({where}); all ranks started again within {longest:.1f} s")
    lines.append(f"{wall_seconds / 60:.1f} minutes")
    lines += [f"FAULT: {fault}" for fault in faults]
    lines.append(
        f"{len(faults)} faults"
        if faults
        else "every run ended in the weights and losses of the one that was not killed"
    )
    return lines


def _kill(session: Session, config: ChaosConfig, random: np.random.Generator, kills: list[Kill]) -> None:
    numbers: dict[Target, int] = {
        "any": config.kills,
        "birth": config.births,
        "checkpoint write": config.writes,
        "export": config.exports,
        "end": config.ends,
    }
    targets = [target for target, number in numbers.items() for _ in range(number)]
    aims = deque(draw_aims([targets[i] for i in random.permutation(len(targets))], random))
    total = len(aims)
    further = 2 * config.writes

    def told(kill: Kill) -> None:
        nonlocal further
        kills.append(kill)
        print(
            f"kill {kill.number:>2}/{total}  {kill.launcher} x{kill.world_size}, {kill.victim}, at {kill.target}: "
            f"{kill.phase} at step {kill.step}, goes on from {kill.goes_on_from}, gone in {kill.vanish_seconds:.1f} s",
            flush=True,
        )
        hits = sum(kill.phase == "checkpoint write" for kill in kills)
        if not aims and hits < config.writes and further:
            further -= 1
            aims.extend(draw_aims(["checkpoint write"], random))

    kill_runs(session, aims, config.kills_per_run, told)
    hits = sum(kill.phase == "checkpoint write" for kill in kills)
    if hits < config.writes and not session.faults:
        session.fault(f"{hits} kills inside checkpoint writes, not {config.writes}")


def _soak(session: Session, config: ChaosConfig, random: np.random.Generator, crashes: list[Crash]) -> None:
    def told(crash: Crash) -> None:
        crashes.append(crash)
        print(
            f"crash {crash.number:>2}/{config.soak}  rank {crash.rank}: {crash.phase} at step {crash.step}, goes on "
            f"from {crash.goes_on_from}, formed anew in {crash.restart_seconds:.1f} s",
            flush=True,
        )

    soak(session, config.soak, random, told)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
