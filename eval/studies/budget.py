"""How many epochs a study can afford: one or two of its cells are tried for some steps, and the rest is arithmetic."""

import json
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from eval.errors import EvaluationError
from eval.studies.config import seconds_of
from eval.studies.files import say, write_json
from eval.studies.runs import Children, Work
from eval.studies.settings import Run
from eval.studies.study import Cell

RESERVE = 0.1
"""Share of the budget that is not planned for: machines are not equally fast all the time."""
_NAME = "budget.json"
_STEPS, _STEPS_PER_LINE = 20, 5
_SUPERVISED = 0.5
"""Seconds of a supervised epoch, relative to one of SimCLR, which has two views."""
_CONTROLS = 3
"""Representations scored with controls; the first run has them."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one cell takes, `jobs` of them at once."""

    cell: str
    work: float
    """Of the cell, relative to the study's others."""
    seconds_per_image: float
    fixed_seconds: float
    """Of a run beside its steps: starting, the last checkpoint, scoring."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long the cells are trained, and why."""

    asked: str
    """The budget."""
    runs: int
    jobs: int
    images: int
    """Of an epoch."""
    epochs: int
    expected_seconds: float
    """Of all runs, what trying the speed took included."""
    speeds: tuple[Speed, ...]


def has_plan(directory: Path) -> bool:
    """Whether the epochs of a study are chosen already."""
    return (directory / _NAME).exists()


def plan_epochs(
    work: Work, runs: tuple[Run, ...], *, asked: str, jobs: int, images: int, children: Children | None
) -> Plan:
    """Choose epochs such that all runs fit nine tenths of the budget; once for a directory, whose budget.json keeps it.

    Args:
        work: of the study; its epochs are not looked at.
        runs: all of them.
        asked: the budget, as seconds_of reads it.
        jobs: runs at once.
        images: of the train split.
        children: who runs processes; not needed for an earlier choice.

    Raises:
        EvaluationError: one epoch is too much, or an earlier choice was for something else.
    """
    path = work.directory / _NAME
    asked_for = {"asked": asked, "runs": len(runs), "jobs": jobs, "images": images}
    if path.exists():
        before = _read(path)
        for name, value in asked_for.items():
            if getattr(before, name) != value:
                raise EvaluationError(
                    f"{path}: chosen for {name} = {getattr(before, name)}, not {value}; give --epochs {before.epochs} "
                    "to keep the choice, or another --output"
                )
        return before
    if children is None:
        raise EvaluationError(f"{path}: not there; begin the study first")
    began = time.monotonic()
    cells = sorted(work.study.cells, key=lambda cell: cell.work)
    speeds = _try_speeds(work, [cells[0], cells[-1]], jobs, children)
    spent = time.monotonic() - began
    supervised = _SUPERVISED if "supervised" in work.study.columns else 0.0

    def expected(epochs: int) -> float:
        each = (run_seconds(run.cell, speeds, images, epochs, supervised) for run in runs)
        controls = (_CONTROLS - 1) * speeds[0].fixed_seconds
        return spent + (sum(each) + controls) / jobs

    first = math.ceil(1 / min(cell.length for cell in cells) - 1e-9)  # the shortest cells have one epoch then
    planned = (1 - RESERVE) * seconds_of(asked)
    if expected(first) > planned:
        raise EvaluationError(
            f"budget = {asked}: {len(runs)} runs of {first} epoch{'s' * (first > 1)} would take about "
            f"{expected(first) / 60:.0f} min, {max(speed.fixed_seconds for speed in speeds):.0f} s of each beside "
            "training; give more time, or fewer cells, seeds or --images"
        )
    epochs = first
    while expected(epochs + 1) <= planned:
        epochs += 1
    plan = Plan(
        asked=asked,
        runs=len(runs),
        jobs=jobs,
        images=images,
        epochs=epochs,
        expected_seconds=round(expected(epochs)),
        speeds=tuple(speeds),
    )
    write_json(path, asdict(plan))
    return plan


def run_seconds(cell: Cell, speeds: list[Speed], images: int, epochs: int, supervised: float = 0.0) -> float:
    """What a run is expected to take.

    Seconds per image lie on a line between those of the least and the most work; where cells do not differ in it, the
    slower of the two that were tried counts for all.

    Args:
        cell: of the run.
        speeds: of the cells of least and of most work.
        images: of an epoch.
        epochs: of the longest cells.
        supervised: epochs of a supervised network for each of SimCLR's, in seconds of the latter.
    """
    low, high = speeds[0], speeds[-1]
    if high.work > low.work:
        share = (cell.work - low.work) / (high.work - low.work)
        per_image = low.seconds_per_image + share * (high.seconds_per_image - low.seconds_per_image)
    else:
        per_image = max(low.seconds_per_image, high.seconds_per_image)
    passes = max(1, round(epochs * cell.length)) + supervised * epochs
    return max(low.fixed_seconds, high.fixed_seconds) + passes * images * per_image


def _read(path: Path) -> Plan:
    try:
        content = json.loads(path.read_text())
        return Plan(**{**content, "speeds": tuple(Speed(**speed) for speed in content["speeds"])})
    except (OSError, ValueError, KeyError, TypeError):
        raise EvaluationError(f"{path}: cannot be read; remove it, and epochs are chosen anew") from None


def _try_speeds(work: Work, cells: list[Cell], jobs: int, children: Children) -> list[Speed]:
    """Train each for some steps and score it, as many at once as the study will have."""
    directory = work.directory / "probe"
    shutil.rmtree(directory, ignore_errors=True)
    tried = [cells[i % 2] for i in range(max(2, jobs))]
    say(f"trying the speed of {cells[0].name} and {cells[1].name}, {_STEPS} steps each")
    try:
        with ThreadPoolExecutor(jobs) as pool:
            speeds = list(pool.map(lambda i: _try(work, tried[i], directory / str(i), children), range(len(tried))))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return speeds[:2]


def _try(work: Work, cell: Cell, directory: Path, children: Children) -> Speed:
    trial = replace(work, directory=directory, settings=replace(work.settings, epochs=max(1, work.settings.epochs)))
    run = Run(number=1, cell=cell, seed=0)
    seconds = trial.make(
        run, children, f"--stop_after_steps={_STEPS}", f"--metrics.log_every_steps={_STEPS_PER_LINE}", supervised=False
    )
    lines = [json.loads(line) for line in (directory / run.name / "metrics.jsonl").read_text().splitlines()]
    steady = lines[1:] or lines  # the first has what is done once
    per_image = sum(1 / line["images_per_second"] for line in steady) / len(steady)
    trained = lines[-1]["step"] * work.wanted[cell.name].global_batch
    return Speed(
        cell=cell.name,
        work=cell.work,
        seconds_per_image=per_image,
        fixed_seconds=max(0.0, seconds - trained * per_image),
    )
