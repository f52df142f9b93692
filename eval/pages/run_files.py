"""What a run directory holds for a report, read once; what is not there, or cannot be read, is a line instead.

config.yaml   metrics.jsonl, metrics.change-N.jsonl   starts.jsonl   encoder/encoder.json
eval/results.json   eval/predictions/*.npy   eval/features/SPLIT-encoder.safetensors
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.errors import EvaluationError
from train.config import PretrainConfig, flatten, load_config

Labels = npt.NDArray[np.int32]
FROZEN = ("knn", "linear", "linear_sgd")
"""Protocols that leave the encoder as it is."""
Line = dict[str, float]
"""A line of metrics.jsonl, flat: loss, health.alignment, stage_seconds.forward and so on; NaN where it says null."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score of results.json."""

    protocol: str
    variant: str
    representation: str
    metric: str
    value: float
    """Share in [0, 1]."""
    interval: tuple[float, float]
    chance: float
    n_train: int
    n_test: int
    seconds: float
    data: str
    """Which of the evaluation's data."""
    predictions: str
    """File, relative to results.json."""
    details: dict[str, Any]

    @property
    def title(self) -> str:
        """Protocol and variant."""
        return f"{self.protocol} {self.variant}".strip()


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
    def best_frozen(self) -> Score:
        """The highest score of the encoder that was left as it is.

        Raises:
            EvaluationError: there is none.
        """
        scores = [score for score in self.scores if score.protocol in FROZEN and score.representation == "encoder"]
        if not scores:
            raise EvaluationError(f"none of {', '.join(FROZEN)} was evaluated")
        return max(scores, key=lambda score: score.value)

    def answers(self, score: Score) -> tuple[Labels, Labels]:
        """What was answered to the test images, and what is right: (n_test,) each, classes in [0, C).

        Raises:
            EvaluationError: a file is missing or is not what results.json says.
        """
        data = self.data[score.data]
        answers = _labels(self.directory / score.predictions, score.n_test, len(data.classes))
        return answers, _labels(self.directory / data.labels, score.n_test, len(data.classes))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, and what is known of it."""

    name: str
    """Of its directory; longer where two runs' are alike."""
    directory: Path
    config: PretrainConfig
    logs: tuple[tuple[Line, ...], ...]
    """Of the run as it began, then after each change of its configuration."""
    starts: tuple[dict[str, Any], ...]
    """Lines of starts.jsonl: time in seconds since 1970, step, world_size, host."""
    encoder: dict[str, Any]
    """encoder.json; empty where there is none."""
    evaluation: Evaluation | None
    why_no_evaluation: str
    """One line; empty where there is one."""

    def evaluated(self) -> Evaluation:
        """The evaluation.

        Raises:
            EvaluationError: there is none.
        """
        if self.evaluation is None:
            raise EvaluationError(self.why_no_evaluation)
        return self.evaluation

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration, flat."""
        return flatten(asdict(self.config))


def read_runs(directories: Sequence[str]) -> list[Run]:
    """Read what there is.

    Raises:
        EvaluationError: a directory has no config.yaml.
        RunError: its configuration is invalid.
    """
    return [_read_run(Path(directory), name) for directory, name in zip(directories, _names(directories), strict=True)]


def _names(directories: Sequence[str]) -> list[str]:
    """The fewest last parts of the paths that tell them apart."""
    parts = [Path(directory).resolve().parts for directory in directories]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(of_one[-count:]) for of_one in parts]
        if len(set(names)) == len(names):
            return names
    raise EvaluationError(f"runs: one directory is named twice under different names: {', '.join(directories)}")


def _read_run(directory: Path, name: str) -> Run:
    if not (directory / "config.yaml").is_file():
        raise EvaluationError(f"{directory}: no config.yaml; give the run directory of train/pretrain.py")
    evaluation = read_evaluation(directory)
    return Run(
        name=name,
        directory=directory,
        config=load_config(directory / "config.yaml"),
        logs=tuple(_read_lines(path) for path in _log_files(directory)),
        starts=tuple(_json_lines(directory / "starts.jsonl")),
        encoder=_read_object(directory / "encoder" / "encoder.json"),
        evaluation=evaluation if isinstance(evaluation, Evaluation) else None,
        why_no_evaluation=evaluation if isinstance(evaluation, str) else "",
    )


def read_evaluation(directory: Path) -> Evaluation | str:
    """The evaluation of a run, or one line that says why there is none."""
    path = directory / "eval" / "results.json"
    again = f"make it with `python -m eval.evaluate {directory}`"
    if not path.is_file():
        return f"Not evaluated yet; {again}"
    content = _read_object(path)
    if content.get("format") != "diptych-evaluation" or content.get("version") != 1:
        return f"{path} cannot be read by this version; {again}"
    try:
        scores = tuple(
            Score(**{field.name: entry[field.name] for field in fields(Score)} | {"interval": _pair(entry["interval"])})
            for entry in content["scores"]
        )
        data = {
            key: ScoredData(
                name=entry["name"],
                fingerprint=entry["fingerprint"],
                split=entry["split"],
                classes=tuple(map(str, entry["classes"])),
                labels=entry["labels"],
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
            versions=dict(content["versions"]),
            hardware=content["hardware"],
            world_size=content["world_size"],
            git_revision=content["git_revision"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        return f"{path} is malformed ({type(error).__name__}: {error}); {again}"


def _pair(values: Any) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)


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


def _log_files(directory: Path) -> list[Path]:
    changes = [
        (int(found[1]), path)
        for path in directory.glob("metrics.change-*.jsonl")
        if (found := re.fullmatch(r"metrics\.change-(\d+)\.jsonl", path.name))
    ]
    return [directory / "metrics.jsonl", *(path for _, path in sorted(changes))]


def _read_lines(path: Path) -> tuple[Line, ...]:
    lines = []
    for line in _json_lines(path):
        flat = {
            name: float("nan") if value is None else float(value)
            for name, value in flatten(line).items()
            if value is None or isinstance(value, int | float)
        }
        if {"step", "epoch", "loss", "images_per_second"} <= flat.keys():
            lines.append(flat)
    return tuple(lines)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Those that are whole: a crash may cut the last one."""
    try:
        texts = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [value for text in texts if isinstance(value := _json(text), dict)]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = _json(path.read_text(errors="replace"))
    except OSError:
        return {}
    return value if isinstance(value, dict) else {}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
