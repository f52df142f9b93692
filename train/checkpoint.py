"""Checkpoints: safetensors and JSON, written whole or not at all; train/checkpoint_files.py has their layout.

A checkpoint is written under another name, flushed to disk, and renamed. The latest is found by looking, not by a
pointer that could lie; a damaged one is passed over for the one before. Nothing in it can execute.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from pipelines.atomic_directory import sync
from train.checkpoint_files import (
    DAMAGE,
    STATE,
    TENSORS,
    CheckpointState,
    list_checkpoints,
    prune,
    read_state,
    write_state,
)
from train.config import CheckpointConfig
from train.errors import RunError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a run needs to go on as if it had never stopped; everything else is a function of the step."""

    state: CheckpointState
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    probe: dict[str, Tensor]
    """Of the online probe; empty without."""

    @property
    def step(self) -> int:
        """Updates made."""
        return self.state.step

    @property
    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """By the file that holds them."""
        return dict(zip(TENSORS, (self.model, self.optimizer, self.probe), strict=True))


def save_checkpoint(directory: Path, checkpoint: Checkpoint, config: CheckpointConfig) -> Path:
    """Write a checkpoint, then remove those that need not be kept.

    Args:
        directory: of all checkpoints of the run; made if it is missing, but what it lies in is not: a run directory
            that has vanished is not begun anew beside what may come back.
        checkpoint: with tensors on any device.
        config: which to keep.

    Returns:
        The new checkpoint's directory.

    Raises:
        OSError: it could not be written; those before are as they were.
    """
    directory.mkdir(exist_ok=True)
    final = directory / checkpoint.state.name
    partial, replaced = (directory / f".{final.name}.{state}" for state in ("partial", "replaced"))
    for left in directory.glob(".step-*.partial"):  # by a crash or a full disk, whose room is wanted
        shutil.rmtree(left)
    partial.mkdir()
    try:
        for name, tensors in checkpoint.tensors.items():
            _write_tensors(tensors, partial / name)
        write_state(partial, checkpoint.state)
        for path in [*partial.iterdir(), partial]:
            sync(path)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk needs its room back
        raise
    if final.exists():  # a damaged one, or that of a run which went back
        if replaced.exists():
            shutil.rmtree(replaced)
        final.rename(replaced)
    partial.rename(final)
    sync(directory)
    try:
        prune(directory, config)
    except OSError as error:  # the new one is complete nevertheless
        logger.warning("%s: what need not be kept could not be removed (%s)", directory, error)
    return final


def load_latest(directory: Path, damaged: list[Path] | None = None) -> Checkpoint | None:
    """Load the newest undamaged checkpoint, or None where there is none at all.

    Args:
        directory: of all checkpoints of a run.
        damaged: gets those that were passed over.

    Raises:
        RunError: there are checkpoints but none can be used, or another version of this program wrote the newest.
    """
    candidates = list_checkpoints(directory)
    for path in candidates:
        try:
            return load_checkpoint(path)
        except (SafetensorError, *DAMAGE) as error:
            logger.error("%s is damaged (%s) and is passed over for the one before", path, error)
            if damaged is not None:
                damaged.append(path)
    if candidates:
        raise RunError(f"{directory}: none of its {len(candidates)} checkpoints can be read; restore one or remove all")
    return None


def load_checkpoint(path: Path) -> Checkpoint:
    """Load one checkpoint.

    Raises:
        RunError: another version of this program wrote it.
        OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError: it is damaged.
    """
    state = read_state(path, (*TENSORS, STATE))
    model, optimizer, probe = (load_file(path / name) for name in TENSORS)
    return Checkpoint(state=state, model=model, optimizer=optimizer, probe=probe)


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state, named PARAMETER/STATE."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
    }


def restore_optimizer(optimizer: Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took, in each parameter's memory layout.

    Raises:
        RunError: it is the state of other parameters.
    """
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("/")
        if name not in parameters:
            raise RunError(f"the checkpoint has an optimizer's state of {name}, which this model does not have")
        parameter = parameters[name]
        if tensor.shape == parameter.shape:
            tensor = parameter.detach().clone().copy_(tensor)  # noqa: PLW2901  # the same tensor in another layout
        optimizer.state[parameter][key] = tensor


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path)
    except SafetensorError as error:  # it wraps what the system said
        raise OSError(f"{path.name}: {error}") from error
