"""From the command line to a study that can begin: everything that can be wrong is told before anything is trained."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.errors import EvaluationError
from eval.studies.all_studies import open_study
from eval.studies.budget import Plan, has_plan, plan_epochs
from eval.studies.config import StudyConfig
from eval.studies.data import prepare_data
from eval.studies.runs import Children, Work
from eval.studies.settings import Run, Settings, check_cells, load_base, runs_of
from pipelines.manifest import SplitIndex, open_split
from train.config import PretrainConfig

_ARRAY_VARIABLES = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A study that can begin."""

    config: StudyConfig
    base: PretrainConfig
    work: Work
    runs: tuple[Run, ...]
    asked: tuple[Run, ...]
    """Those that this command is to make."""
    train: SplitIndex
    plan: Plan | None = None
    """How the epochs were chosen, where a budget was given."""


def open_all(config: StudyConfig, training: Sequence[str]) -> Opened:
    """Check everything that can be checked before anything is trained; makes the part of the data if one is wanted.

    Raises:
        EvaluationError: a choice, a cell or the number of images is wrong.
        RunError: the configuration file is.
        DataError: the data set is.
    """
    directory = Path(config.directory)
    settings = Settings(
        base=config.base,
        data_dir=config.data.dir,
        epochs=config.epochs,
        cpu_threads=threads_of(config),
        training=tuple(training),
    )
    base = load_base(settings)
    settings = replace(settings, epochs=config.epochs or base.schedule.epochs)
    study = open_study(config, base)
    whole = open_split(config.data.dir, "train")
    wanted = check_cells(study, settings, directory, config.images or len(whole))
    runs = runs_of(study, config.seed_numbers)
    asked = (runs[cell_number(config.cell, len(runs))],) if config.cell else runs
    train = whole if config.list else prepare_data(config.data.dir, config.images, directory)
    work = Work(
        study=study,
        settings=replace(settings, data_dir=train.location),
        directory=directory,
        protocols=config.protocol_names,
        supervised_epochs=config.supervised_epochs,
        wanted=wanted,
    )
    opened = Opened(config=config, base=base, work=work, runs=runs, asked=asked, train=train)
    return with_budget(opened) if config.budget else opened


def with_budget(opened: Opened, children: Children | None = None) -> Opened:
    """The study with the epochs that its budget allows.

    Args:
        opened: the study.
        children: who tries its speed; without them an earlier choice is used, if there is one.

    Raises:
        EvaluationError: the budget is too small, or a cell cannot be trained for so many epochs.
    """
    config, work = opened.config, opened.work
    if children is None and not has_plan(work.directory):
        return opened
    plan = plan_epochs(
        work, opened.runs, asked=config.budget, jobs=config.jobs, images=len(opened.train), children=children
    )
    settings = replace(work.settings, epochs=plan.epochs)
    wanted = check_cells(work.study, settings, work.directory, len(opened.train))
    return replace(opened, plan=plan, work=replace(work, settings=settings, wanted=wanted))


def announcement(opened: Opened) -> str:
    """What is about to be done, before it begins."""
    settings, plan = opened.work.settings, opened.plan
    text = (
        f"{opened.work.study.title}: {len(opened.work.study.cells)} cells, {len(opened.runs)} runs of "
        f"{settings.epochs} epoch{'s' * (settings.epochs > 1)} of {len(opened.train):,} images, "
        f"{opened.config.jobs} at once"
    )
    if plan is None:
        return text
    speeds = ", ".join(f"{1 / speed.seconds_per_image:,.0f} images/s in {speed.cell}" for speed in plan.speeds)
    fixed = max(speed.fixed_seconds for speed in plan.speeds)
    return (
        f"{text}; chosen for {plan.asked}: {speeds}, {fixed:.0f} s of each run beside training; about "
        f"{plan.expected_seconds / 60:.0f} min in all"
    )


def cell_number(asked: str, runs: int) -> int:
    """The number of --cell, which `array` leaves to Slurm or Kubernetes.

    Raises:
        EvaluationError: there is none, or no such run.
    """
    if asked == "array":
        asked = next((os.environ[name] for name in _ARRAY_VARIABLES if os.environ.get(name, "").isdecimal()), "")
        if not asked:
            raise EvaluationError(f"cell = array: neither {' nor '.join(_ARRAY_VARIABLES)} is set; give a number")
    if int(asked) >= runs:
        raise EvaluationError(f"cell = {asked}: the study has runs 0 to {runs - 1}; --list names them")
    return int(asked)


def threads_of(config: StudyConfig) -> int:
    """Of each job; one job alone takes what it finds."""
    return config.cpu_threads or (max(1, len(os.sched_getaffinity(0)) // config.jobs) if config.jobs > 1 else 0)
