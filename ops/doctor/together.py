"""The real loader in its thread beside real training steps, as in a run."""

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import mean, median
from typing import TYPE_CHECKING

from model.health import health
from ops.doctor.clock import Mark, between, mark, wait_for
from ops.doctor.measurements import LOADER_STAGES, Phase
from pipelines.canvases import LoaderWork
from pipelines.loader import Share, training_batches
from pipelines.manifest import SplitIndex
from pipelines.prefetch import Prefetch
from train.distributed import ranks_on_node
from train.ranks import Ranks

if TYPE_CHECKING:
    from pipelines.config import DataConfig
    from pipelines.loader import Batch
    from train.config import PretrainConfig
    from train.log_line import Outcome
    from train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is trained on, and for how long."""

    name: str
    """Of the phase."""
    split: SplitIndex
    data: "DataConfig"
    fill_steps: int = 0
    """Steps whose batches are made, so that caches fill, but not learnt from."""
    warm_up_steps: int = 2
    """Learnt from, but not timed."""
    last_step: int
    """Where to end, whatever the time."""
    seconds: float
    """To time."""
    loader_alone_seconds: float
    """A step of the loader by itself, as far as that is known."""


def share_of(config: "PretrainConfig", ranks: Ranks, last_step: int) -> Share:
    """This rank's part of the run."""
    return Share(
        global_batch=config.global_batch,
        seed=config.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        ranks_on_node=ranks_on_node(),
        last_step=last_step,
    )


def train_together(trainer: "Trainer", ranks: Ranks, course: Course) -> Phase:
    """Train, and see what the loader takes and whether it is waited for.

    All ranks agree before each step, as in a run, so that waiting for another rank's batch is not taken for slow
    training. The trainer learns what it should not: its weights are of no use afterwards.

    Raises:
        DataError: the data cannot be read.
    """
    config, device = trainer.config, trainer.accelerator.device
    stop = threading.Event()
    batches = training_batches(
        course.split, course.data, config.views, share_of(config, ranks, course.last_step), device, None, stop
    )
    works: list[LoaderWork] = []
    with Prefetch(batches, config.data.prefetch_batches, stop) as ahead:
        for _ in range(course.fill_steps):
            ahead.take()
        ends: list[Mark] = []
        came: list[Mark] = []
        begun = time.perf_counter()
        while True:
            batch = ahead.take()
            arrived = mark(device)
            if len(ends) == course.warm_up_steps:
                begun = time.perf_counter()
            # Two marks make a timed step; a device's queue may be behind the host, which is waited for at log lines.
            over = len(ends) > course.warm_up_steps + 1 and time.perf_counter() - begun > course.seconds
            if ranks.most([over or batch is None])[0] or batch is None:
                break
            came.append(arrived)
            logging = len(ends) % config.metrics.log_every_steps == 0
            outcome = trainer.train_step(batch, examine=logging)
            if logging:
                look(trainer, outcome)
            ends.append(mark(device))
            works.append(batch.work)
    wait_for(device)
    timed = slice(course.warm_up_steps, None) if len(ends) > course.warm_up_steps + 1 else slice(0, None)
    lap_seconds = [between(start, end) for start, end in pairwise(ends[timed])]
    waits = [between(end, start) for end, start in zip(ends[timed], came[timed][1:], strict=False)]
    return Phase(
        name=course.name,
        step_seconds=typical(lap_seconds, config.metrics.log_every_steps),
        wait_share=min(1.0, sum(waits) / sum(lap_seconds)),
        loader_seconds=mean_work(works[timed][1:]),
        loader_alone_seconds=course.loader_alone_seconds,
        steps=len(lap_seconds),
    )


def look(trainer: "Trainer", outcome: "Outcome") -> None:
    """What a run computes for a log line, and waits for."""
    trainer.accelerator.reduce(outcome.loss, reduction="mean").item()
    for value in health(outcome.z, outcome.h).values():
        value.item()


def typical(lap_seconds: list[float], steps_a_line: int) -> float:
    """Median, over groups of steps, of their mean: a log line's rate, which a neighbour's short burst does not move."""
    group = max(1, min(steps_a_line, len(lap_seconds) // 5))
    return median(mean(lap_seconds[start : start + group]) for start in range(0, len(lap_seconds) - group + 1, group))


def mean_work(works: list[LoaderWork]) -> dict[str, float]:
    """Seconds a batch, by stage."""
    each = [seconds_of(work) for work in works]
    return {stage: mean(seconds[stage] for seconds in each) for stage in each[0]}


def seconds_of(work: LoaderWork) -> Mapping[str, float]:
    """By stage of `LOADER_STAGES`' values."""
    seconds = dict.fromkeys(LOADER_STAGES.values(), 0.0)
    for name, value in asdict(work).items():
        if name.endswith("_seconds"):
            seconds[LOADER_STAGES[name.removesuffix("_seconds")]] += value
    return seconds


def seconds_a_step(batches: "list[Batch]") -> dict[str, float]:
    """Median of each of the loader's own stages, unmerged."""
    names = [name.removesuffix("_seconds") for name in asdict(batches[0].work) if name.endswith("_seconds")]
    return {name: median(getattr(batch.work, f"{name}_seconds") for batch in batches) for name in names}
