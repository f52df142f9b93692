"""What the ranks of a pool do with a run that is resumed: each call is a start of the run with as many ranks."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.batchnorm import with_global_batchnorm
from model.config import EncoderConfig, HeadConfig, LossConfig
from model.simclr import SimCLR
from pipelines.config import DataConfig, ViewsConfig
from pipelines.loader import Share, training_batches
from pipelines.manifest import SplitIndex, open_split
from pipelines.order import rank_positions, steps_per_epoch
from train.checkpoint import save_checkpoint
from train.config import CheckpointConfig, OptimizerConfig, PretrainConfig, ScheduleConfig
from train.optimizer import build_optimizer
from train.probe import Probe
from train.ranks import Ranks
from train.resume import find_checkpoint, restore
from train.run_saver import snapshot
from train.trainer import Trainer

CPU = torch.device("cpu")
GLOBAL_BATCH = 16


@dataclass(frozen=True)
class Leg:
    """From one start of a run to its next checkpoint."""

    first_step: int
    losses: list[float]
    """Of the global batch, by step."""
    ids: list[list[int]]
    """Sample ids by step, in the order of the global batch."""
    weights: dict[str, Tensor]
    """Network, running statistics, momenta and probe at its end."""


def go_on(
    data: Path,
    run_dir: Path,
    last_step: int,
    dtype: torch.dtype,
    norm: Literal["batch", "group"] = "batch",
    micro_batch: int = 0,
) -> Leg:
    """Start the run in run_dir as it stands, learn up to a step, and save."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    ranks = Ranks(rank=rank, world_size=world_size, control=dist.group.WORLD if world_size > 1 else None)
    config = PretrainConfig(
        run_dir=str(run_dir),
        data=DataConfig(dir=str(data), canvas=32),
        views=ViewsConfig(size=32),
        encoder=EncoderConfig(name="resnet18", stem="cifar", width=0.0625, norm=norm),
        head=HeadConfig(dim=8, batchnorm=norm == "batch"),
        loss=LossConfig(temperature=0.5),
        optimizer=OptimizerConfig(base_lr=0.4),
        schedule=ScheduleConfig(epochs=10, warmup_epochs=2),
        global_batch=GLOBAL_BATCH,
        micro_batch=micro_batch,
        precision="fp32",
        device="cpu",
    )
    split = open_split(data, "train")
    trainer, model = make_trainer(config, split, dtype)
    checkpoint = find_checkpoint(config, split, ranks)
    if checkpoint is not None:
        restore(checkpoint, trainer, model)
    first_step = checkpoint.step if checkpoint is not None else 0
    share = Share(
        global_batch=GLOBAL_BATCH, seed=0, rank=rank, world_size=world_size, first_step=first_step, last_step=last_step
    )
    losses, ids = [], []
    for batch in training_batches(split, config.data, config.views, share, CPU):
        loss = trainer.train_step(batch).loss / world_size
        places = torch.from_numpy(rank_positions(GLOBAL_BATCH, rank, world_size).astype(np.int64))
        sample_id = torch.zeros(GLOBAL_BATCH, dtype=torch.int64).index_copy(0, places, batch.sample_id)
        for part in (loss, sample_id) if world_size > 1 else ():
            dist.all_reduce(part)
        losses.append(float(loss))
        ids.append(sample_id.tolist())
    end = snapshot(split, trainer, model, last_step, change=0)
    if rank == 0:
        save_checkpoint(run_dir / "checkpoints", end, CheckpointConfig(keep_last=9))
    if world_size > 1:
        dist.barrier()
    return Leg(first_step, losses, ids, {**end.model, **end.optimizer, **end.probe})


def make_trainer(config: PretrainConfig, split: SplitIndex, dtype: torch.dtype) -> tuple[Trainer, SimCLR]:
    """As train/build.py, but for Accelerate, which knows no float64."""
    distributed = dist.is_initialized()
    torch.manual_seed(config.seed)
    model: Any = SimCLR(config.encoder, config.head, config.views.size).to(dtype)
    with_global_batchnorm(model, CPU)
    inner = build_optimizer(config.optimizer, model)
    wrapped: nn.Module = DistributedDataParallel(model, broadcast_buffers=False) if distributed else model
    accelerator: Any = SimpleNamespace(
        device=CPU,
        scaler=None,
        process_index=dist.get_rank() if distributed else 0,
        backward=Tensor.backward,
        no_sync=lambda module: module.no_sync() if distributed else nullcontext(),
    )
    optimizer = SimpleNamespace(
        optimizer=inner, param_groups=inner.param_groups, step=inner.step, zero_grad=inner.zero_grad
    )
    trainer = Trainer(
        config=config,
        accelerator=accelerator,
        model=wrapped.train(),
        optimizer=optimizer,
        steps_per_epoch=steps_per_epoch(len(split), config.global_batch),
        probe=Probe(model.encoder.num_features, len(split.manifest.classes), config.probe.lr, CPU, dtype),
    )
    make_views = trainer.views
    trainer.views = lambda canvas, plan: make_views(canvas, plan).to(dtype)
    return trainer, model
