"""What the ranks of a pool send each other in steps of a whole trainer."""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState

from ops.bench.made_batch import CLASSES, made_batch, made_split
from ops.bench.scaling import traffic_of
from ops.bench.scaling_ranks import RankSteps
from ops.bench.wire_formulas import Network, network_of
from ops.bench.wire_watch import TrafficByKind, WireWatch
from pipelines.loader import Batch
from train.boundary import Boundary
from train.build import build
from train.config import PretrainConfig
from train.distributed import make_accelerator
from train.log_line import log_line
from train.non_finite import refuse_or_go_on
from train.ranks import Ranks
from train.trainer import Trainer


@contextmanager
def as_launched() -> Generator[tuple[int, int], None, None]:
    """What a launcher tells a process, for this rank of a pool: which it is, and of how many."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ.update({name: str(number) for name, number in names.items()})
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield rank, ranks
    finally:
        for name in names:
            del os.environ[name]
        AcceleratorState._reset_state(reset_partial_state=True)


def traffic_of_steps(config: PretrainConfig) -> tuple[TrafficByKind, TrafficByKind, Network]:
    """Of a step that others came before, and of what a log line adds to one; and the network."""
    with as_launched() as (rank, world_size):
        trainer, model = build(config, made_split(config), make_accelerator(config))
        batches = [made_batch(config, step, torch.device("cpu"), rank, world_size) for step in range(3)]
        for batch in batches[:2]:  # DDP forms its buckets anew after the first
            trainer.train_step(batch)
        wire = WireWatch()
        with wire:
            ranks = Ranks(rank=rank, world_size=world_size, control=dist.group.WORLD)
            batch = next(between_steps(trainer, ranks, batches[2]))
            outcome = trainer.train_step(batch, examine=True)
        log = WireWatch()
        with log:
            log_line(trainer, batch, outcome, {}, 1.0)
            refuse_or_go_on(trainer, done=3)
        return dict(wire.traffic), dict(log.traffic), network_of(config, model, CLASSES)


def reported_traffic(config: PretrainConfig) -> tuple[float, dict[str, Any]]:
    """Seconds of a step, and its traffic as `python -m ops.bench scaling` reports it."""
    with as_launched() as (rank, world_size):
        steps = RankSteps([config], rank, world_size)
        return steps.seconds(0, 1), traffic_of(config, world_size, *steps.traffic(0))


def between_steps(trainer: Trainer, ranks: Ranks, batch: Batch) -> Iterator[Batch]:
    """The batch of a run that nobody has asked to stop, and that saves nothing."""
    stop: Any = SimpleNamespace(asked=False)
    watchdog: Any = SimpleNamespace(at_step=lambda _: None)
    writer = SimpleNamespace(collect=lambda: None)
    saver: Any = SimpleNamespace(trainer=trainer, writer=writer, gave_up=False, wants_retry=False)
    ahead: Any = SimpleNamespace(take=lambda **_: batch)
    return Boundary(ranks=ranks, stop=stop, watchdog=watchdog, saver=saver, step=batch.step).batches(ahead)
