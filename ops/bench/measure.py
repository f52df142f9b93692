"""Contestants side by side: each run in a fresh process on one core, rounds interleaved, disturbed runs repeated.

round 1   ours  dali  ffcv          every contestant in turn, so that a slow minute of the machine meets them all
round 2   ours  dali  ffcv          dali was disturbed: its CPU seconds are under 0.95 of its wall seconds
round 3         dali                so it has another try

Work is counted per CPU-second of the process and its children, which a busy neighbour changes little; on one core a
contestant that never waits has a CPU utilisation of 1, so that one below shows who was disturbed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

_ROOT = Path(__file__).resolve().parents[2]
_LONGEST_SECONDS = 900
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
"""glibc's settings of the Makefile, for contestants alike."""
# One thread each.
_ENVIRONMENT = {
    **ALLOCATOR,
    "OMP_NUM_THREADS": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONPATH": str(_ROOT),
}


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """How contestants are measured."""

    repeats: PositiveInt = 5
    """Undisturbed runs wanted of each contestant."""
    retries: NonNegativeInt = 5
    """More runs that a contestant may have where some were disturbed."""
    seconds: PositiveFloat = 2.5
    """Shortest timed section of a run."""
    warm_up_seconds: NonNegativeFloat = 0.5
    """Before the timed section, from the first batch on."""
    least_utilisation: ClosedUnitInterval = 0.95
    """CPU seconds per wall second below which a run counts as disturbed."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """What is measured."""

    name: str
    call: str
    """MODULE:FUNCTION of a generator function that yields batches, or numbers of images worked on, without end."""
    options: dict[str, Any]
    """The function's arguments, as JSON has them."""
    batch_bytes: int = 0
    """Size of each batch of uint8 pixels."""
    distributions: tuple[str, ...] = ()
    """Whose versions are told. Without any it is ours, which must be there."""
    python: str = sys.executable
    wanted_ratio: float | None = None
    """How many times as fast ours is to be."""
    wanted_rate: float | None = None
    """Images per CPU-second that it is to reach itself."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One run of one contestant."""

    images: int
    wall_seconds: float
    cpu_seconds: float
    """User and system time of all its processes in these wall seconds."""
    peak_rss_bytes: int = 0
    memory_bytes: int = 0
    """Of all its processes, as `ops.bench.memory` has it."""

    @property
    def images_per_cpu_second(self) -> float:
        """The measure that is compared."""
        return self.images / self.cpu_seconds

    @property
    def images_per_second(self) -> float:
        """By the clock on the wall."""
        return self.images / self.wall_seconds

    @property
    def cpu_utilisation(self) -> float:
        """Of its one core."""
        return self.cpu_seconds / self.wall_seconds


@dataclass(kw_only=True)
class Outcome:
    """All runs of one contestant."""

    kept: list[Measurement] = field(default_factory=list)
    rejected: list[Measurement] = field(default_factory=list)
    failure: str = ""
    """Why there are none, or no more."""
    versions: dict[str, str] = field(default_factory=dict)


Answer = dict[str, Any]
Run = Callable[[Contestant, BenchConfig], Answer]


def measure(contestants: Sequence[Contestant], config: BenchConfig, run: Run | None = None) -> dict[str, Outcome]:
    """Run contestants in turns until each has its repeats or no tries left.

    Args:
        contestants: with different names.
        config: how often and how long.
        run: makes one run; by default in a fresh process.

    Returns:
        Outcomes by name. A contestant that is missing or fails is not tried again.
    """
    run = run or run_alone
    outcomes = {contestant.name: Outcome() for contestant in contestants}
    for _ in range(config.repeats + config.retries):
        for contestant in contestants:
            outcome = outcomes[contestant.name]
            if len(outcome.kept) < config.repeats and not outcome.failure:
                _add(outcome, run(contestant, config), config.least_utilisation)
    return outcomes


def run_alone(contestant: Contestant, config: BenchConfig) -> Answer:
    """Time a contestant in a fresh process, pinned to the last of our cores."""
    return run_on(contestant, config, cores=[max(os.sched_getaffinity(0))])


def run_on(contestant: Contestant, config: BenchConfig, cores: Sequence[int]) -> Answer:
    """Time a contestant in a fresh process that has these cores."""
    job = {
        "cores": list(cores),
        "seconds": config.seconds,
        "warm_up_seconds": config.warm_up_seconds,
        "batch_bytes": contestant.batch_bytes,
        "distributions": contestant.distributions,
    }
    return call_alone(contestant.call, contestant.options, contestant.python, job)


def call_alone(
    call: str,
    options: dict[str, Any],
    python: str = sys.executable,
    job: Answer | None = None,
    longest_seconds: float = _LONGEST_SECONDS,
) -> Answer:
    """Do a job of `ops.bench.contestant` in a fresh process; untimed unless the job says otherwise."""
    whole = {"distributions": (), **(job or {}), "call": call, "options": options}
    command = [python, "-m", "ops.bench.contestant", json.dumps(whole)]
    try:
        done = subprocess.run(  # noqa: S603  # our own module
            command,
            env={**os.environ, **_ENVIRONMENT},
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=longest_seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    try:
        answer: Answer = json.loads(done.stdout)
    except ValueError:
        return {"error": f"exit status {done.returncode}: {' '.join(done.stderr.split())[-300:]}"}
    return answer


def summary(outcome: Outcome, config: BenchConfig) -> Answer:
    """Medians and spread.

    Returns:
        Of images per CPU-second median, lowest and highest; the medians of images_per_second and cpu_utilisation; the
        highest peak_rss_bytes; runs kept and rejected. With fewer kept than wanted it is `noisy`, and the least
        disturbed of the rejected fill up. `failure` alone where there is none at all.
    """
    by_calm = sorted(outcome.rejected, key=lambda run: -run.cpu_utilisation)
    runs = outcome.kept + by_calm[: config.repeats - len(outcome.kept)]
    told = {"failure": outcome.failure} if outcome.failure else {}
    if not runs:
        return told
    rates = [run.images_per_cpu_second for run in runs]
    return {
        "median": median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "images_per_second": median(run.images_per_second for run in runs),
        "cpu_utilisation": median(run.cpu_utilisation for run in runs),
        "peak_rss_bytes": max(run.peak_rss_bytes for run in runs),
        "kept": len(outcome.kept),
        "rejected": len(outcome.rejected),
        "noisy": len(outcome.kept) < config.repeats,
        "versions": outcome.versions,
        **told,
    }


def compare(contestants: Sequence[Contestant], config: BenchConfig, run: Run | None = None) -> dict[str, Answer]:
    """Measure, and say how the first contestant, ours, stands to each of the others.

    Returns:
        Summaries by name; others have `ratio`, ours to theirs, and what was wanted stands as wanted_ratio or
        wanted_rate.
    """
    outcomes = measure(contestants, config, run)
    report = {name: summary(outcome, config) for name, outcome in outcomes.items()}
    ours = report[contestants[0].name]
    for contestant in contestants:
        entry = report[contestant.name]
        if entry is not ours and "median" in ours and "median" in entry:
            entry["ratio"] = ours["median"] / entry["median"]
        wanted = {"wanted_ratio": contestant.wanted_ratio, "wanted_rate": contestant.wanted_rate}
        entry.update({name: value for name, value in wanted.items() if value is not None})
    return report


def _add(outcome: Outcome, answer: Answer, least_utilisation: float) -> None:
    if "missing" in answer:
        outcome.failure = f"not installed ({answer['missing']})"
    elif "error" in answer:
        outcome.failure = f"failed ({answer['error']})"
    else:
        outcome.versions = answer.pop("versions", {})
        run = Measurement(**answer)
        (outcome.kept if run.cpu_utilisation >= least_utilisation else outcome.rejected).append(run)
