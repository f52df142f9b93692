"""A classifier in the middle of its training: eval/training/NAME.safetensors, one file, whole or not at all.

    model/NAME, optimizer/PARAMETER/STATE     tensors, of the bare classifier
    metadata: key, state                      what they belong to; epochs done, losses and seconds

Rank 0 alone reads and writes: the nodes of a job need not share a disk.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eval.classifier import Learner
from eval.errors import EvaluationError
from eval.ranks import from_rank_0
from model.collectives import rank
from train.checkpoint import optimizer_tensors, restore_optimizer


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training has come."""

    step: int = 0
    """Updates made."""
    losses: tuple[float, ...] = ()
    """Mean cross-entropy of each epoch, in nats."""
    seconds: float = 0.0
    """Of learning, in all commands that it took."""


def save_progress(path: Path, key: str, learner: Learner, progress: Progress) -> None:
    """Keep a training; all ranks call this together.

    Raises:
        EvaluationError: it cannot be written; what was kept before is as it was.
    """
    from_rank_0(lambda: _write(path, key, learner, progress))


def load_progress(path: Path, key: str, learner: Learner) -> Progress:
    """Go on with what was kept, if it is of the same training; otherwise nothing has been done yet.

    All ranks call this together.
    """
    found = from_rank_0(lambda: _read(path, key))
    if found is None:
        return Progress()
    tensors, progress = found
    learner.classifier.load_state_dict(_below("model/", tensors))
    restore_optimizer(learner.optimizer, learner.classifier, _below("optimizer/", tensors))
    return progress


def forget_progress(path: Path) -> None:
    """Remove what was kept, if anything was, and the directory with the last of it."""
    if rank() == 0:
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()


def _write(path: Path, key: str, learner: Learner, progress: Progress) -> None:
    state = learner.classifier.state_dict()
    tensors = {f"model/{name}": tensor for name, tensor in state.items()} | {
        f"optimizer/{name}": tensor
        for name, tensor in optimizer_tensors(learner.optimizer, learner.classifier).items()
        if tensor is not None  # torch's SGD, before its first update
    }
    partial = path.with_name(f"{path.name}.partial")
    metadata = {"key": key, "state": json.dumps(asdict(progress))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial, metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):  # a full disk needs its room back; one that does not even take this has said so already
            partial.unlink(missing_ok=True)
        raise EvaluationError(f"{path}: cannot be written ({error}); make room and repeat the command") from None


def _read(path: Path, key: str) -> tuple[dict[str, Tensor], Progress] | None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            state = json.loads(metadata["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dictionary
            return tensors, Progress(**(state | {"losses": tuple(state["losses"])}))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):  # missing, or damaged: it is learnt anew
        return None


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
