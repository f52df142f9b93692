"""Checkpoints: safetensors and JSON, written whole or not at all.

    RUN/checkpoints/step-00001000/model.safetensors       encoder, head, BatchNorm statistics; names of the bare model
                                  optimizer.safetensors   PARAMETER/STATE, such as encoder.conv1.weight/momentum
                                  probe.safetensors       the online probe and its optimizer
                                  state.json              step, configuration, data fingerprint, scaler, sha256 of all

A checkpoint is written under another name, flushed to disk, and renamed. The latest is found by looking, not by a
pointer that could lie; a damaged one is passed over for the one before. Nothing in it can execute.
"""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from train.errors import RunError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
_MODEL, _OPTIMIZER, _PROBE = "model.safetensors", "optimizer.safetensors", "probe.safetensors"
_STATE = "state.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a run needs to go on as if it had never stopped; everything else is a function of the step."""

    step: int
    """Updates made."""
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    probe: dict[str, Tensor]
    """Of the online probe; empty without."""
    scaler: dict[str, Any]
    """State of fp16's gradient scaler; empty without."""
    config: dict[str, Any]
    """The fields that shape the result, flat."""
    data_fingerprint: str


def save_checkpoint(directory: Path, checkpoint: Checkpoint, keep_last: int) -> Path:
    """Write a checkpoint, then remove all but the newest.

    Args:
        directory: of all checkpoints of the run.
        checkpoint: with tensors on any device.
        keep_last: complete checkpoints to keep, at least 1.

    Returns:
        The new checkpoint's directory.
    """
    final = directory / f"step-{checkpoint.step:08d}"
    partial = directory / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    contents = {_MODEL: checkpoint.model, _OPTIMIZER: checkpoint.optimizer, _PROBE: checkpoint.probe}
    for name, tensors in contents.items():
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, partial / name)
    state = {
        "format": "diptych-checkpoint",
        "version": FORMAT_VERSION,
        "step": checkpoint.step,
        "scaler": checkpoint.scaler,
        "data_fingerprint": checkpoint.data_fingerprint,
        "sha256": {name: _sha256(partial / name) for name in contents},
        "config": checkpoint.config,
    }
    (partial / _STATE).write_text(json.dumps(state, indent=1) + "\n")
    for path in [*partial.iterdir(), partial]:
        _fsync(path)
    shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
    partial.rename(final)
    _fsync(directory)
    for old in _complete(directory)[keep_last:]:
        shutil.rmtree(old)
    return final


def load_latest(directory: Path) -> Checkpoint | None:
    """Load the newest undamaged checkpoint, or None where there is none at all.

    Raises:
        RunError: there are checkpoints but none can be used.
    """
    candidates = _complete(directory)
    for path in candidates:
        try:
            return _load(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            logger.error("%s is damaged (%s) and is passed over for the one before", path, error)
    if candidates:
        raise RunError(f"{directory}: none of its {len(candidates)} checkpoints can be read; restore one or remove all")
    return None


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state, named PARAMETER/STATE."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
    }


def restore_optimizer(optimizer: Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took, in each parameter's memory layout."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("/")
        parameter = parameters[name]
        if tensor.shape == parameter.shape:
            tensor = parameter.detach().clone().copy_(tensor)  # noqa: PLW2901  # the same tensor in another layout
        optimizer.state[parameter][key] = tensor


def _load(path: Path) -> Checkpoint:
    state = json.loads((path / _STATE).read_text())
    if state["format"] != "diptych-checkpoint":
        raise ValueError(f"{_STATE} is not a checkpoint's")
    if state["version"] != FORMAT_VERSION:
        raise RunError(f"{path}: format version {state['version']}, this program reads {FORMAT_VERSION}")
    for name, digest in state["sha256"].items():
        if _sha256(path / name) != digest:
            raise ValueError(f"sha256 of {name} differs")
    return Checkpoint(
        step=state["step"],
        model=load_file(path / _MODEL),
        optimizer=load_file(path / _OPTIMIZER),
        probe=load_file(path / _PROBE),
        scaler=state["scaler"],
        config=state["config"],
        data_fingerprint=state["data_fingerprint"],
    )


def _complete(directory: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted(directory.glob("step-*"), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
