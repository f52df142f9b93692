"""Features on disk: eval/features/SPLIT-REPRESENTATION.safetensors, so that what was extracted once need not be again.

Rank 0 alone reads and writes: the nodes of a job need not share a disk. The others are sent their part, or send it.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from eval.errors import EvaluationError
from eval.features import LabelledFeatures, split_labels
from eval.ranks import from_rank_0, part_of
from model.collectives import rank, world_size
from pipelines.manifest import SplitIndex


def load_features(path: Path, key: str, split: SplitIndex) -> LabelledFeatures | None:
    """This rank's part of what was kept, or None if there is nothing, or it is of another encoder, data set or setting.

    Args:
        path: of the file.
        key: names encoder, data and settings.
        split: that the features are of.
    """
    shape = from_rank_0(lambda: _shape(path, key))
    if shape is None:
        return None
    part = part_of(len(split))
    labels = split_labels(split)[part.rows]
    if rank():
        features = torch.empty(len(part), shape[1])
        dist.recv(features, src=0)
        return LabelledFeatures(features=features, labels=labels)
    with safe_open(path, framework="pt") as file:
        rows = file.get_slice("features")
        for other in range(1, world_size()):
            dist.send(rows[part_of(len(split), other).rows].contiguous(), dst=other)
        return LabelledFeatures(features=rows[part.rows], labels=labels)


def save_features(path: Path, key: str, split: SplitIndex, local: LabelledFeatures) -> None:
    """Keep the features of all ranks; the file appears whole or not at all.

    Args:
        path: of the file; its directory is made.
        key: names encoder, data and settings.
        split: that the features are of.
        local: this rank's part.

    Raises:
        EvaluationError: it cannot be written.
    """
    if rank():
        dist.send(local.features, dst=0)
        from_rank_0(lambda: None)
        return
    whole = local.features
    if world_size() > 1:
        whole = torch.empty(len(split), local.features.shape[1])
        whole[: len(local.features)] = local.features
        for other in range(1, world_size()):
            dist.recv(whole[part_of(len(split), other).rows], src=other)
    from_rank_0(lambda: _write(path, {"features": whole, "labels": split_labels(split)}, key))


def _shape(path: Path, key: str) -> tuple[int, int] | None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            rows, columns = file.get_slice("features").get_shape()
            return (rows, columns) if metadata.get("key") == key else None
    except (OSError, SafetensorError, ValueError):  # missing, or half of one: features are extracted anew
        return None


def _write(path: Path, tensors: dict[str, torch.Tensor], key: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={"key": key})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise EvaluationError(f"{path}: cannot be written ({error}); make room and repeat the command") from None
