"""Our training, and its bound, as contestants."""

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from ops.bench.training import Training
from pipelines.loader import Batch, Share, training_batches
from pipelines.manifest import open_split
from pipelines.prefetch import Prefetch
from train.build import build
from train.config import PretrainConfig, load_config
from train.distributed import make_accelerator

if TYPE_CHECKING:
    from pipelines.manifest import SplitIndex
    from train.trainer import Trainer


def begin(config: str) -> Training:
    """The run of a YAML file, as `train/pretrain.py` trains it; without checkpoints, log lines and metrics."""
    return _begin(load_config(Path(config)), bound=False)


def bound(config: str) -> Training:
    """The same updates on views that lie in memory."""
    return _begin(load_config(Path(config)), bound=True)


def _begin(config: PretrainConfig, *, bound: bool) -> Training:
    split = open_split(config.data.dir, "train")
    accelerator = make_accelerator(config)
    trainer, model = build(config, split, accelerator)
    return Training(
        encoder=model.encoder,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        updates=_bare_updates(config, split, trainer) if bound else _updates(config, split, trainer),
    )


def _updates(config: PretrainConfig, split: "SplitIndex", trainer: "Trainer") -> Iterator[int]:
    with Prefetch(_batches(config, split, trainer), config.data.prefetch_batches) as ahead:
        for batch in ahead:
            trainer.train_step(batch)
            yield len(batch.sample_id)


def _bare_updates(config: PretrainConfig, split: "SplitIndex", trainer: "Trainer") -> Iterator[int]:
    with Prefetch(_batches(config, split, trainer, last_step=1), depth=1) as ahead:
        (batch,) = ahead
    views = trainer.views(batch.canvas, batch.plan)
    trainer.views = lambda *_: views
    for _ in repeat(None, trainer.total_steps):
        trainer.train_step(batch)
        yield len(batch.sample_id)


def _batches(
    config: PretrainConfig, split: "SplitIndex", trainer: "Trainer", last_step: int | None = None
) -> Iterator[Batch]:
    share = Share(global_batch=config.global_batch, seed=config.seed, last_step=last_step or trainer.total_steps)
    return training_batches(split, config.data, config.views, share, trainer.accelerator.device)
