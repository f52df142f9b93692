"""Features that an evaluation has kept: eval/features/SPLIT-encoder.safetensors, with `features` and `labels`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from eval.errors import EvaluationError
from eval.pages.evaluation_files import ScoredData
from eval.pages.run_files import Run

Features = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class KeptFeatures:
    """Of the encoder, one split, in stored order."""

    path: Path
    labels: Ids
    """(N,) in [0, C)."""
    width: int
    """D, of a feature."""

    def rows(self, first: int, last: int) -> Features:
        """(last - first, D); features of large data sets do not fit into memory."""
        try:
            with safe_open(self.path, framework="numpy") as file:
                rows: Features = file.get_slice("features")[first:last]
        except (OSError, SafetensorError) as error:
            raise _unreadable(self.path, error) from None
        if not np.isfinite(rows).all():
            raise EvaluationError(f"{self.path}: features are not finite")
        return rows

    def __len__(self) -> int:
        return len(self.labels)


def scored_data(run: Run) -> ScoredData:
    """What the best frozen protocol was scored on.

    Raises:
        EvaluationError: there is no such score.
    """
    return run.evaluated().data[run.best_frozen().data]


def open_features(run: Run, split: str, classes: int) -> KeptFeatures:
    """Features of the run's encoder.

    Raises:
        EvaluationError: they are not there, or are not what they should be.
    """
    path = run.evaluated().directory / "features" / f"{Path(split).name}-encoder.safetensors"
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file; features are kept by `python -m eval.evaluate {run.directory}`")
    try:
        with safe_open(path, framework="numpy") as file:
            labels = file.get_tensor("labels")
            shape = file.get_slice("features").get_shape()
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    if len(shape) != 2 or labels.shape != (shape[0],) or not len(labels):
        raise EvaluationError(f"{path}: features {shape} and labels {labels.shape} do not belong together")
    if labels.min() < 0 or labels.max() >= classes:
        raise EvaluationError(f"{path}: has a label that is not among the {classes} classes of the data")
    return KeptFeatures(path=path, labels=labels.astype(np.int64), width=shape[1])


def _unreadable(path: Path, error: Exception) -> EvaluationError:
    return EvaluationError(f"{path}: cannot be read ({error}); remove it and repeat eval.evaluate")
