"""Where a run goes on from, and whether it may: decided and read on rank 0, told to all ranks."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from pipelines.manifest import SplitIndex
from pipelines.order import steps_per_epoch
from train.checkpoint import Checkpoint, load_checkpoint, load_latest, restore_optimizer
from train.checkpoint_files import DAMAGE, CheckpointState, set_aside
from train.config import PretrainConfig
from train.errors import RunError
from train.ranks import Ranks
from train.resume_check import differing_fields, refuse_other_run

if TYPE_CHECKING:
    from model.simclr import SimCLR
    from train.trainer import Trainer

logger = logging.getLogger(__name__)


def find_checkpoint(config: PretrainConfig, split: SplitIndex, ranks: Ranks) -> Checkpoint | None:
    """The checkpoint to go on from, on all ranks; None to begin.

    Only rank 0 need see the run directory.

    Raises:
        RunError: there are checkpoints but none can be used, or the run was another one.
    """
    found: list[Checkpoint] = []

    def find() -> dict[str, Any] | None:
        checkpoint = _newest_of_run(config) or _from_elsewhere(config)
        if checkpoint is None:
            return None
        checkpoint = fitted(checkpoint, config, split)
        found.append(checkpoint)
        return {
            "state": asdict(checkpoint.state),
            "tensors": {
                file: {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors.items()}
                for file, tensors in checkpoint.tensors.items()
            },
        }

    told = ranks.from_rank_0(find)
    if told is None or ranks.world_size == 1:
        return found[0] if found else None
    groups: list[dict[str, Tensor]] = []
    for file, layout in told["tensors"].items():
        group = found[0].tensors[file] if found else {n: _empty(*dtype_shape) for n, dtype_shape in layout.items()}
        groups.append({name: ranks.broadcast(group[name]) for name in layout})
    state = told["state"]
    model, optimizer, probe = groups
    return Checkpoint(
        state=CheckpointState(**(state | {"left_out": tuple(state["left_out"])})),
        model=model,
        optimizer=optimizer,
        probe=probe,
    )


def fitted(checkpoint: Checkpoint, config: PretrainConfig, split: SplitIndex) -> Checkpoint:
    """The same, at the same epoch of a run whose configuration or data has changed, where that is allowed.

    Raises:
        RunError: it is not.
    """
    state = checkpoint.state
    changed = differing_fields(state.config, config)
    if state.data_fingerprint != split.manifest.fingerprint:
        changed["data.dir"] = ("other data", config.data.dir)
    if not changed:
        return checkpoint
    if not config.allow_config_change:
        refuse_other_data(state, config, split)
        refuse_other_run(state.config, config)
    steps = steps_per_epoch(len(split), config.global_batch)
    step = state.step * steps // state.steps_per_epoch
    for name, (before, now) in changed.items():
        logger.warning("%s was %s up to step %d and is %s from step %d on", name, before, state.step, now, step)
    # Steps are counted anew: batches that were left out have other numbers now.
    left_out = state.left_out if steps == state.steps_per_epoch and "data.dir" not in changed else ()
    return replace(
        checkpoint,
        state=replace(state, step=step, change=state.change + 1, steps_per_epoch=steps, left_out=left_out),
    )


def refuse_other_data(state: CheckpointState, config: PretrainConfig, split: SplitIndex) -> None:
    """Check that a checkpoint was trained on this data.

    Raises:
        RunError: it was not.
    """
    if state.data_fingerprint != split.manifest.fingerprint:
        raise RunError(
            f"data.dir = {config.data.dir}: not the data that {config.run_dir} was trained on; give the same data to "
            "resume, another --run_dir, or --allow_config_change"
        )


def restore(checkpoint: Checkpoint, trainer: "Trainer", model: "SimCLR") -> None:
    """Put a trainer into the state of a checkpoint.

    Raises:
        RunError: the checkpoint is that of another model or optimizer.
    """
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        raise RunError(f"the checkpoint does not fit the model: {' '.join(str(error).split())[:300]}") from None
    restore_optimizer(trainer.optimizer.optimizer, model, checkpoint.optimizer)
    if trainer.accelerator.scaler and checkpoint.state.scaler:
        trainer.accelerator.scaler.load_state_dict(dict(checkpoint.state.scaler))
    if trainer.probe is not None and checkpoint.probe:
        trainer.probe.restore(checkpoint.probe)
    trainer.watch.skipped_updates = checkpoint.state.skipped_updates
    trainer.left_out |= frozenset(checkpoint.state.left_out)
    trainer.last_probe_top1 = checkpoint.state.probe_top1


def _newest_of_run(config: PretrainConfig) -> Checkpoint | None:
    damaged: list[Path] = []
    checkpoint = load_latest(Path(config.run_dir) / "checkpoints", damaged)
    for path in damaged:
        set_aside(path)
    if checkpoint is not None and config.resume == "never":
        raise RunError(
            f"resume = never: {config.run_dir} holds a checkpoint of step {checkpoint.step}; give another --run_dir"
        )
    return checkpoint


def _from_elsewhere(config: PretrainConfig) -> Checkpoint | None:
    if config.resume in ("auto", "never"):
        return None
    path = Path(config.resume)
    try:
        checkpoint = load_checkpoint(path) if path.name.startswith("step-") else load_latest(path / "checkpoints")
    except (SafetensorError, *DAMAGE) as error:
        raise RunError(f"resume = {path}: cannot be read ({error})") from None
    if checkpoint is None:
        raise RunError(f"resume = {path}: has no checkpoints/step-N; name a run's directory or one checkpoint")
    return checkpoint


def _empty(dtype: str, shape: list[int]) -> Tensor:
    return torch.empty(shape, dtype=getattr(torch, dtype))
