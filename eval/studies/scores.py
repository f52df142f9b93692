"""What a run of a study came to, read from what eval.evaluate and train/pretrain.py wrote into its directory."""

import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

from eval.errors import EvaluationError
from eval.studies.study import Study

VARIANTS = {"supervised": "100 % pretraining's views"}
"""Of scores that have one; the others' is empty."""
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def score_of(results: dict[str, Any], protocol: str, representation: str = "encoder") -> float | None:
    """One score of eval.evaluate's results.json, a share in [0, 1]; None if it is not there."""
    wanted = (protocol, VARIANTS.get(protocol, ""), representation)
    for score in results.get("scores", ()):
        if (score["protocol"], score["variant"], score["representation"]) == wanted:
            return float(score["value"])
    return None


def run_scores(run_dir: Path, study: Study, protocols: tuple[str, ...]) -> dict[str, float]:
    """The scores of a run by column, each a share in [0, 1]; without those that are not there yet.

    Raises:
        EvaluationError: a file is not what it should be.
    """
    results = read_results(run_dir)
    found = {column: score_of(results, column) for column in (*protocols, *study.columns)}
    if "contrastive" in study.columns and results:
        found["contrastive"] = contrastive_accuracy(run_dir / "metrics.jsonl")
    return {column: value for column, value in found.items() if value is not None}


def read_results(run_dir: Path) -> dict[str, Any]:
    """What eval.evaluate wrote; empty if there is nothing yet.

    Raises:
        EvaluationError: it is not JSON of that program.
    """
    path = run_dir / "eval" / "results.json"
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        if content["format"] != "diptych-evaluation":
            raise KeyError("format")
    except (OSError, ValueError, KeyError, TypeError):
        raise EvaluationError(f"{path}: not written by eval.evaluate; remove it, and the run is scored again") from None
    return dict(content)


def encoder_parameters(run_dir: Path) -> int | None:
    """Number of trained parameters in a run's encoder; None if it is not there yet."""
    path = run_dir / "encoder" / "model.safetensors"
    if not path.exists():
        return None
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        names = [name for name in file.keys() if not name.endswith(_STATISTICS)]  # noqa: SIM118  # it is no mapping
        return sum(math.prod(map(int, file.get_slice(name).get_shape())) for name in names)


def contrastive_accuracy(log: Path) -> float | None:
    """Share of anchors whose positive was nearer than every negative, over the log lines of the last epoch.

    Returns:
        In [0, 1]; None without a line.

    Raises:
        EvaluationError: the file is damaged.
    """
    try:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        last = [line["health"]["contrastive_top1"] for line in lines if line["epoch"] > lines[-1]["epoch"] - 1]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise EvaluationError(f"{log}: a line cannot be read; remove the run's directory to train it again") from None
    return mean(last) if last else None
