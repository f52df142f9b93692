"""What watching costs: the clock's and the metrics' share of a step, on one core.

The difference of steps with and without would drown in their noise. Each part is timed alone, many times, and set
against the median step of the same process.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from jsonargparse.typing import PositiveFloat, PositiveInt

from pipelines.errors import DataError
from pipelines.manifest import SplitIndex, open_split
from train.arguments import parse
from train.config import PretrainConfig
from train.distributed import fail
from train.errors import RunError

WANTED_SHARE = 0.005


@dataclass(frozen=True, kw_only=True)
class MetricsBenchConfig(PretrainConfig):
    """The run whose steps are watched, and how it is measured."""

    steps: PositiveInt = 12
    """Real ones, after two that do not count."""
    calls: PositiveInt = 500
    """Of each part, per block."""
    repeats: PositiveInt = 5
    """Blocks; the median counts."""
    scrape_seconds: PositiveFloat = 15.0
    """Between two requests of Prometheus's."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: Sequence[str]) -> None:
    """Measure, and print medians."""
    try:
        config = parse(MetricsBenchConfig, arguments, prog="bench metrics")
        report = measure(config, open_split(config.data.dir, "train"))
    except (RunError, DataError) as error:
        fail("bench metrics", error, show=True)
    if config.json:
        print(json.dumps(report))
        return
    of_what = f"{config.encoder.name} x{config.encoder.width:g}, batch {config.global_batch}"
    print(f"a step of {of_what}: {report['step_seconds']:.4f} s")
    for name, seconds in report["parts"].items():
        print(f"{name:<28}{seconds * 1e6:>10.1f} us")
    print(
        f"{'of a step, all together':<28}{report['seconds_per_step'] * 1e6:>10.1f} us = "
        f"{100 * report['share']:.3f} % (wanted: less than {100 * WANTED_SHARE:g} %)"
    )


def measure(config: MetricsBenchConfig, split: SplitIndex) -> dict[str, Any]:
    """Seconds of each part, and their sum over a step.

    Returns:
        parts: seconds of one call. seconds_per_step: all of them, as often as a step makes them. share: of a step.
    """
    from dataclasses import replace

    from prometheus_client import generate_latest

    from ops.training_metrics import TrainingMetrics
    from pipelines.loader import Share, training_batches
    from pipelines.prefetch import Occupancy
    from train.build import build
    from train.config import MetricsConfig
    from train.distributed import make_accelerator
    from train.log_line import log_line
    from train.loop import StepRecord
    from train.ranks import Ranks
    from train.stages import STAGES, StageClock

    accelerator = make_accelerator(config)
    trainer, _ = build(config, split, accelerator)
    share = Share(global_batch=config.global_batch, seed=config.seed, last_step=config.steps + 2)
    moments = []
    for batch in training_batches(split, config.data, config.views, share, accelerator.device):
        outcome = trainer.train_step(batch, examine=True)
        line = log_line(trainer, batch, outcome, dict.fromkeys(STAGES, 0.01), 1.0)  # waits for the device
        moments.append(time.perf_counter())
    step_seconds = median(after - before for before, after in pairwise(moments[1:]))
    silent = StepRecord(
        step=1,
        images=config.global_batch,
        step_seconds=step_seconds,
        stage_seconds=dict.fromkeys(STAGES, 0.01),
        skip_reasons=(),
        work=batch.work,
        log=None,
    )
    metrics = TrainingMetrics(
        replace(config, metrics=MetricsConfig(port=0)),
        Ranks(),
        local_rank=0,
        device=accelerator.device,
        last_step=100,
        starts=0,
    )
    clock = StageClock(accelerator.device)

    def of_a_step() -> None:
        for stage in STAGES:
            clock.enter(stage)
        clock.take()

    occupancy = Occupancy(ready=1, blocked_seconds=0.0)
    parts = {
        "clock, 11 stages": _seconds(of_a_step, config),
        "record of a step": _seconds(lambda: metrics.record(silent, occupancy), config),
        "record with a log line": _seconds(lambda: metrics.record(replace(silent, log=line), occupancy), config),
        "page for Prometheus": _seconds(lambda: generate_latest(metrics.page), config),
    }
    clock_seconds, record, record_with_line, page = parts.values()
    every = config.metrics.log_every_steps
    seconds = clock_seconds + record + (record_with_line - record) / every + page * step_seconds / config.scrape_seconds
    return {
        "step_seconds": step_seconds,
        "parts": parts,
        "seconds_per_step": seconds,
        "share": seconds / step_seconds,
    }


def _seconds(part: Callable[[], object], config: MetricsBenchConfig) -> float:
    blocks: list[float] = []
    for _ in range(config.repeats + 1):  # the first warms up
        start = time.perf_counter()
        for _ in range(config.calls):
            part()
        blocks.append((time.perf_counter() - start) / config.calls)
    return median(blocks[1:])
