"""Pretrain an encoder with SimCLR.

    accelerate launch train/pretrain.py --config train/configs/cifar10_cpu.yaml --data.dir DIR --run_dir runs/NAME

The same command again resumes. `torchrun` and plain `python` work too. `--help` lists every field.
"""

import logging
import sys
import threading
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import DataError
from pipelines.manifest import SplitIndex, open_split
from pipelines.order import steps_per_epoch
from train.arguments import parse
from train.config import PretrainConfig
from train.distributed import environment_rank, environment_world_size, fail, share_cores
from train.errors import RunError
from train.run_directory import announce, refuse_other_run, save_run

if TYPE_CHECKING:
    from accelerate import Accelerator

    from model.simclr import SimCLR
    from train.checkpoint import Checkpoint
    from train.loop import Trainer


def main() -> None:
    """Refuse what is wrong before torch is imported, then train."""
    share_cores()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        config = parse(PretrainConfig, sys.argv[1:], prog="pretrain")
        split = open_data(config, environment_world_size())
        refuse_other_run(config)
    except (RunError, DataError) as error:
        fail("pretrain", error, show=environment_rank() == 0)
    from model.errors import ModelError
    from train.non_finite import NonFiniteError

    try:
        pretrain(config, split)
    except (RunError, DataError, ModelError) as error:
        together = isinstance(error, NonFiniteError)  # raised by all ranks alike
        fail("pretrain", error, show=environment_rank() == 0 or not together)
    except KeyboardInterrupt:
        print("pretrain: interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def open_data(config: PretrainConfig, world_size: int) -> SplitIndex:
    """Open the train split and check that it can be divided as asked.

    Raises:
        DataError: the directory does not hold what its manifest says, or holds too little.
        RunError: the global batch cannot be shared equally.
    """
    if not config.data.dir:
        raise RunError("data.dir: no data set named; build one with `python -m pipelines.build_shards`")
    if config.global_batch % world_size:
        below = config.global_batch // world_size * world_size
        near = " or ".join(str(batch) for batch in (below, below + world_size) if batch)
        raise RunError(f"global_batch = {config.global_batch}: not divisible by the {world_size} ranks; use {near}")
    split = open_split(config.data.dir, "train")
    if len(split) < config.global_batch:
        raise DataError(
            f"{split.location}: {len(split)} train samples, less than global_batch = {config.global_batch}; "
            "lower global_batch"
        )
    return split


def pretrain(config: PretrainConfig, split: SplitIndex) -> None:
    """Run on this rank, from the newest checkpoint or the start, to the end of the schedule or `stop_after_steps`."""
    from model.compiled import graph_breaks
    from ops.metrics import TrainingMetrics
    from pipelines.loader import Share, training_batches
    from pipelines.prefetch import Prefetch
    from train.checkpoint import load_latest
    from train.distributed import make_accelerator, ranks_on_node
    from train.log import RunLog
    from train.loop import StepRecord, train

    accelerator = make_accelerator(config)
    run_dir = Path(config.run_dir)
    checkpoint = load_latest(run_dir / "checkpoints")
    trainer, model = build(config, split, accelerator, checkpoint)
    first_step = checkpoint.step if checkpoint else 0
    last_step = min(trainer.total_steps, config.stop_after_steps or trainer.total_steps)
    if accelerator.is_main_process:
        announce(config, split, trainer, first_step, last_step)
    if first_step >= last_step:
        return

    metrics = TrainingMetrics(config, rank=accelerator.process_index, local_rank=accelerator.local_process_index)
    stop = threading.Event()
    share = Share(
        global_batch=config.global_batch,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        ranks_on_node=ranks_on_node(),
        first_step=first_step,
        last_step=last_step,
    )
    batches = training_batches(
        split, config.data, config.views, share, accelerator.device, damaged_dir=run_dir / "damaged_samples", stop=stop
    )
    log = RunLog(run_dir / "metrics.jsonl", first_step, last_step) if accelerator.is_main_process else None

    def record(step: StepRecord) -> None:
        if config.compile and step.step == first_step + 1 and accelerator.is_main_process:
            print(f"encoder compiled, with {graph_breaks()} graph breaks", flush=True)
        metrics.record(step, ahead.occupancy())
        if log is not None:
            log.record(step)

    def save(step: int) -> None:
        save_run(config, split, trainer, model, step)
        metrics.checkpoint_saved()

    with log or nullcontext(), Prefetch(batches, config.data.prefetch_batches, stop) as ahead:
        train(trainer, ahead, last_step=last_step, record=record, save=save)


def build(
    config: PretrainConfig, split: SplitIndex, accelerator: "Accelerator", checkpoint: "Checkpoint | None"
) -> tuple["Trainer", "SimCLR"]:
    """Make this rank's trainer, as new or as the checkpoint left it, and the bare model inside it.

    Raises:
        RunError: the checkpoint was trained on other data.
    """
    import torch

    from model.batchnorm import with_global_batchnorm
    from model.encoder import is_stochastic, prepare_encoder
    from model.simclr import SimCLR
    from train.checkpoint import restore_optimizer
    from train.loop import Trainer
    from train.optimizer import build_optimizer
    from train.probe import Probe

    torch.manual_seed(config.seed)
    model = SimCLR(config.encoder, config.head, config.views.size)
    if checkpoint:
        if checkpoint.data_fingerprint != split.manifest.fingerprint:
            raise RunError(
                f"data.dir = {config.data.dir}: not the data that {config.run_dir} was trained on; "
                "give the same data to resume, or another --run_dir"
            )
        model.load_state_dict(checkpoint.model)
    if config.global_batchnorm:
        with_global_batchnorm(model, accelerator.device)
    prepare_encoder(model.encoder, compiled=config.compile, checkpoint_activations=config.checkpoint_activations)
    layout = torch.channels_last if config.uses_channels_last else torch.contiguous_format
    model.to(memory_format=layout).to(accelerator.device)
    optimizer = build_optimizer(config.optimizer, model)
    if checkpoint:
        restore_optimizer(optimizer, model, checkpoint.optimizer)
    with warnings.catch_warnings():
        # Its successor is not among Accelerate's settings, and copies buffers at the start, which are equal already.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        wrapped_model, wrapped_optimizer = accelerator.prepare(model, optimizer)
    if checkpoint and accelerator.scaler:
        accelerator.scaler.load_state_dict(checkpoint.scaler)
    probe = None
    classes = len(split.manifest.classes)
    if config.probe.enabled and classes and (split.samples["label"] >= 0).any():
        probe = Probe(model.encoder.num_features, classes, config.probe.lr, accelerator.device)
        if checkpoint and checkpoint.probe:
            probe.restore(checkpoint.probe)
    trainer = Trainer(
        config=config,
        accelerator=accelerator,
        model=wrapped_model.train(),
        optimizer=wrapped_optimizer,
        steps_per_epoch=steps_per_epoch(len(split), config.global_batch),
        probe=probe,
        draws_in_forward=is_stochastic(model.encoder),
    )
    return trainer, model


if __name__ == "__main__":
    main()
