"""What a run directory holds for a report, read once; what is not there, or cannot be read, is a line instead.

config.yaml   metrics.jsonl, metrics.change-N.jsonl   starts.jsonl   encoder/encoder.json
eval/results.json   eval/predictions/*.npy   eval/features/SPLIT-encoder.safetensors
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.errors import EvaluationError
from eval.pages.evaluation_files import FROZEN, Evaluation, read_evaluation, read_object
from eval.results import Score
from train.config import PretrainConfig, flatten, load_config

Line = dict[str, float]
"""A line of metrics.jsonl, flat: loss, health.alignment, stage_seconds.forward and so on; NaN where it says null."""


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

    def best_frozen(self) -> Score:
        """The highest score of the encoder that was left as it is.

        Raises:
            EvaluationError: there is none.
        """
        best = self.evaluated().best_frozen
        if best is None:
            raise EvaluationError(f"none of {', '.join(FROZEN)} was evaluated")
        return best

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
        encoder=read_object(directory / "encoder" / "encoder.json"),
        evaluation=evaluation if isinstance(evaluation, Evaluation) else None,
        why_no_evaluation=evaluation if isinstance(evaluation, str) else "",
    )


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


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
