"""The runs of a study, and what train/pretrain.py is told for each of them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.errors import EvaluationError
from eval.studies.study import Cell, Study
from train.arguments import parse
from train.config import PretrainConfig
from train.errors import RunError


@dataclass(frozen=True, kw_only=True)
class Run:
    """A cell with a seed."""

    number: int
    """In the list, from 0; seeds in the outer loop, so that whole rounds are comparable early."""
    cell: Cell
    seed: int

    @property
    def name(self) -> str:
        """Of its directory, below that of the study."""
        return f"{self.cell.name}/seed-{self.seed}"


def runs_of(study: Study, seeds: Sequence[int]) -> tuple[Run, ...]:
    """All runs of a study, by number."""
    pairs = [(seed, cell) for seed in seeds for cell in study.cells]
    return tuple(Run(number=number, cell=cell, seed=seed) for number, (seed, cell) in enumerate(pairs))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all cells share."""

    base: str
    """Configuration file."""
    data_dir: str
    epochs: int
    """Of the longest cells."""
    cpu_threads: int = 0
    training: tuple[str, ...] = ()
    """The user's own flags of train/pretrain.py."""

    def flags(self) -> list[str]:
        """Of train/pretrain.py, before the cell's."""
        threads = [f"--cpu_threads={self.cpu_threads}"] if self.cpu_threads else []
        return ["--config", self.base, f"--data.dir={self.data_dir}", "--metrics.port=0", *threads, *self.training]

    def training_flags(self, run: Run, directory: Path) -> list[str]:
        """Of train/pretrain.py, for a run of the study in `directory`. Warm-up is a tenth of the epochs."""
        epochs = max(1, round(self.epochs * run.cell.length))
        schedule = [f"--schedule.epochs={epochs}", f"--schedule.warmup_epochs={epochs / 10:g}"]
        return [*self.flags(), *schedule, *run.cell.flags, f"--seed={run.seed}", f"--run_dir={directory / run.name}"]


def load_base(settings: Settings) -> PretrainConfig:
    """The configuration that all cells start from.

    Raises:
        RunError: it cannot be read, or a flag is wrong.
    """
    return parse(PretrainConfig, settings.flags())


def check_cells(study: Study, settings: Settings, directory: Path, images: int) -> dict[str, PretrainConfig]:
    """Resolve every cell's configuration, so that what is wrong is told before any of them is trained.

    Args:
        study: whose cells.
        settings: of all cells.
        directory: of the study.
        images: in the train split.

    Returns:
        The configuration of each cell with seed 0, by name.

    Raises:
        EvaluationError: a cell cannot be trained, with its name.
    """
    resolved = {}
    for cell in study.cells:
        if settings.epochs * cell.length < 1:
            raise EvaluationError(
                f"epochs = {settings.epochs}: cell {cell.name} has {cell.length:g} of them, less than one; use more"
            )
        try:
            config = parse(PretrainConfig, settings.training_flags(Run(number=0, cell=cell, seed=0), directory))
        except RunError as error:
            raise EvaluationError(f"cell {cell.name}: {error}") from None
        if config.global_batch > images:
            raise EvaluationError(
                f"cell {cell.name}: global_batch = {config.global_batch}, but there are {images:,} images to train on; "
                "use smaller batches or more images"
            )
        resolved[cell.name] = config
    return resolved


def with_seed(config: PretrainConfig, seed: int) -> PretrainConfig:
    """The same cell, trained from another seed."""
    return dataclasses.replace(config, seed=seed)
