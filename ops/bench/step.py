"""What a whole training step costs beside its bound, the same step on views that are in memory already, and its limits.

Blocks of steps of both kinds alternate in one process, so that a busy neighbour meets both. The limits are those of
roofline.py.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from statistics import median
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import PositiveInt

from ops.bench.roofline import Roofline, measure_roofline, roofline_lines
from ops.bench.tables import rate_text
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex, open_split
from train.arguments import parse
from train.config import PretrainConfig
from train.distributed import fail
from train.errors import RunError

if TYPE_CHECKING:
    from pipelines.loader import Batch
    from train.trainer import Trainer

_WARM_UP_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class StepBenchConfig(PretrainConfig):
    """The run whose step is measured, and how."""

    repeats: PositiveInt = 5
    """Blocks of each kind."""
    steps: PositiveInt = 8
    """Timed steps per block; two more come first, untimed."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Timed steps of one kind."""

    images_per_second: float
    """Source images."""
    cpu_utilisation: float
    """CPU seconds of this process per wall second and core."""


def main(arguments: Sequence[str]) -> None:
    """Measure, and print medians, spread and the ratio."""
    try:
        config = parse(StepBenchConfig, arguments, prog="bench step")
        blocks, roofline = measure(config, open_split(config.data.dir, "train"))
    except (RunError, DataError) as error:
        fail("bench step", error, show=True)
    report = summary(blocks)
    images_per_second = report["whole step"]["median"]
    if config.json:
        limits = {**asdict(roofline), "mfu": roofline.mfu(images_per_second)}
        print(json.dumps({**report, "roofline": limits}))
        return
    for kind in ("whole step", "bound"):
        rate = report[kind]
        spread = f"{rate_text(rate['lowest'])} to {rate_text(rate['highest'])}"
        median = rate_text(rate["median"])
        print(f"{kind:<11}{median:>8} images/s ({spread}), CPU utilisation {rate['cpu_utilisation']:.2f}")
    print(f"ratio      {report['ratio']:>8.3f}")
    print("\n".join(roofline_lines(roofline, images_per_second)))


def measure(config: StepBenchConfig, split: SplitIndex) -> tuple[dict[str, list[Block]], Roofline]:
    """Alternate blocks of whole steps and of bare ones; then measure the limits.

    Returns:
        Blocks by kind: `whole step` reads, decodes, augments and learns; `bound` learns from views that lie in memory.
    """
    from pipelines.loader import Share, training_batches
    from pipelines.prefetch import Prefetch
    from train.build import build
    from train.distributed import make_accelerator

    accelerator = make_accelerator(config)
    trainer, _ = build(config, split, accelerator)
    make_views = trainer.views

    def read(first_step: int, steps: int) -> "Iterator[Batch]":
        share = Share(
            global_batch=config.global_batch, seed=config.seed, first_step=first_step, last_step=first_step + steps
        )
        return training_batches(split, config.data, config.views, share, accelerator.device)

    with Prefetch(read(0, 1), depth=1) as ahead:
        (first,) = ahead
    in_memory = make_views(first.canvas, first.plan)
    length = _WARM_UP_STEPS + config.steps
    blocks: dict[str, list[Block]] = {"whole step": [], "bound": []}
    for block in range(config.repeats):
        trainer.views = make_views
        with Prefetch(read(block * length, length), config.data.prefetch_batches) as ahead:
            blocks["whole step"].append(time_block(trainer, ahead))
        trainer.views = lambda *_: in_memory
        blocks["bound"].append(time_block(trainer, repeat(first, length)))
    alone = read(config.repeats * length, length)
    return blocks, measure_roofline(config, first.canvas, first.plan, alone, _WARM_UP_STEPS)


def time_block(trainer: "Trainer", batches: Iterable["Batch"]) -> Block:
    """Learn from the batches and time all but the first ones."""
    images, wall, cpu = 0, 0.0, 0.0
    for number, batch in enumerate(batches):
        if number == _WARM_UP_STEPS:
            _wait(trainer)
            wall, cpu = time.perf_counter(), time.process_time()
        trainer.train_step(batch)
        images += len(batch.sample_id) if number >= _WARM_UP_STEPS else 0
    _wait(trainer)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Block(images_per_second=images / wall, cpu_utilisation=cpu / wall / len(os.sched_getaffinity(0)))


def summary(blocks: dict[str, list[Block]]) -> dict[str, Any]:
    """Medians and spread by kind, and the ratio of the medians."""
    report: dict[str, Any] = {}
    for kind, measured in blocks.items():
        rates = [block.images_per_second for block in measured]
        report[kind] = {
            "median": median(rates),
            "lowest": min(rates),
            "highest": max(rates),
            "cpu_utilisation": median(block.cpu_utilisation for block in measured),
        }
    report["ratio"] = report["whole step"]["median"] / report["bound"]["median"]
    return report


def _wait(trainer: "Trainer") -> None:
    if trainer.accelerator.device.type == "cuda":
        import torch

        torch.cuda.synchronize()
