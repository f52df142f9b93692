"""What eval.evaluate has left of a run: RUN/eval/results.json and the answers beside it, read once and checked."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.errors import EvaluationError
from eval.results import FORMAT, VERSION, Score

Labels = npt.NDArray[np.int32]
FROZEN = ("knn", "linear", "linear_sgd")
"""Protocols that leave the encoder as it is."""


@dataclass(frozen=True, kw_only=True)
class ScoredData:
    """What scores are of."""

    name: str
    fingerprint: str
    split: str
    classes: tuple[str, ...]
    labels: str
    """File, relative to results.json."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What eval.evaluate wrote."""

    directory: Path
    scores: tuple[Score, ...]
    data: dict[str, ScoredData]
    versions: dict[str, str]
    hardware: str
    world_size: int
    git_revision: str

    @property
    def best_frozen(self) -> Score | None:
        """The highest score of the encoder that was left as it is."""
        scores = [score for score in self.scores if score.protocol in FROZEN and score.representation == "encoder"]
        return max(scores, key=lambda score: score.value, default=None)

    def answers(self, score: Score) -> tuple[Labels, Labels]:
        """What was answered to the test images, and what is right: (n_test,) each, classes in [0, C).

        Raises:
            EvaluationError: a file is missing or is not what results.json says.
        """
        data = self.data[score.data]
        answers = _labels(self.directory / score.predictions, score.n_test, len(data.classes))
        return answers, _labels(self.directory / data.labels, score.n_test, len(data.classes))


def read_evaluation(directory: Path) -> Evaluation | str:
    """The evaluation of a run, or one line that says why there is none."""
    path = directory / "eval" / "results.json"
    again = f"make it with `python -m eval.evaluate {directory}`"
    if not path.is_file():
        return f"Not evaluated yet; {again}"
    content = read_object(path)
    if (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        return f"{path} cannot be read by this version; {again}"
    try:
        scores = tuple(_score(entry) for entry in content["scores"])
        data = {
            key: ScoredData(
                name=str(entry["name"]),
                fingerprint=str(entry["fingerprint"]),
                split=str(entry["split"]),
                classes=tuple(map(str, entry["classes"])),
                labels=str(entry["labels"]),
            )
            for key, entry in content["data"].items()
        }
        unknown = {score.data for score in scores} - set(data)
        if unknown:
            return f"{path} says nothing of the data {sorted(unknown)[0]}; {again}"
        return Evaluation(
            directory=path.parent,
            scores=scores,
            data=data,
            versions={name: str(number) for name, number in content["versions"].items()},
            hardware=str(content["hardware"]),
            world_size=int(content["world_size"]),
            git_revision=str(content["git_revision"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"{path} is malformed ({type(error).__name__}: {error}); {again}"


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is none that can be read."""
    try:
        value = json.loads(path.read_text(errors="replace"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _score(entry: dict[str, Any]) -> Score:
    low, high = entry["interval"]
    return Score(
        protocol=str(entry["protocol"]),
        variant=str(entry["variant"]),
        representation=str(entry["representation"]),
        metric=str(entry["metric"]),
        value=float(entry["value"]),
        interval=(float(low), float(high)),
        chance=float(entry["chance"]),
        n_train=int(entry["n_train"]),
        n_test=int(entry["n_test"]),
        seconds=float(entry["seconds"]),
        data=str(entry["data"]),
        predictions=str(entry["predictions"]),
        key=str(entry["key"]),
        details=dict(entry["details"]),
    )


def _labels(path: Path, count: int, classes: int) -> Labels:
    again = "repeat eval.evaluate"
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error}); {again}") from None
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise EvaluationError(f"{path}: {labels.dtype} {labels.shape}, and {count} whole numbers are wanted; {again}")
    if labels.min() < 0 or labels.max() >= classes:
        raise EvaluationError(f"{path}: names a class that is not among the {classes} of the data; {again}")
    of_known_type: Labels = labels.astype(np.int32)
    return of_known_type
