"""Scores as a table for people and as results.json for programs. Nothing here imports torch."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from eval.errors import EvaluationError

FORMAT, VERSION = "diptych-evaluation", 1
REPRESENTATIONS = {"encoder": "encoder", "random_init": "random init", "raw_pixels": "raw pixels", "h": "h", "z": "z"}
"""By their name in results.json: as tables call them, in this order."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A number, and what is needed to judge it. The fields are those of results.json."""

    protocol: str
    variant: str
    representation: str
    metric: str
    value: float
    """Share in [0, 1]."""
    interval: tuple[float, float]
    """95 % of the values that other test images would give, by the percentile bootstrap over images."""
    chance: float
    """Of always giving the most frequent right answer."""
    n_train: int
    n_test: int
    seconds: float
    data: str
    """Key of `data` in results.json: fingerprint/split."""
    predictions: str
    """File of the answers, (n_test,) int32 .npy, relative to results.json."""
    key: str
    """Hash of the task, the encoder and the data; with another one the score is not used again."""
    details: dict[str, Any]

    @property
    def title(self) -> str:
        """Protocol and variant."""
        return f"{self.protocol} {self.variant}".strip()


def table(scores: Sequence[Score]) -> str:
    """Shares in per cent: a row per protocol and variant, the representations beside each other, then chance."""
    return "\n\n".join(
        _table([score for score in scores if (score.protocol == "probes") == probes])
        for probes in (False, True)
        if any((score.protocol == "probes") == probes for score in scores)
    )


def _table(scores: Sequence[Score]) -> str:
    columns = [name for name in REPRESENTATIONS if any(score.representation == name for score in scores)]
    rows = [["protocol", "learnt from", *(REPRESENTATIONS[name] for name in columns), "chance"]]
    for protocol, variant in dict.fromkeys((score.protocol, score.variant) for score in scores):
        of_row = {s.representation: s for s in scores if (s.protocol, s.variant) == (protocol, variant)}
        any_of_row = next(iter(of_row.values()))
        unit = " (mean per class)" if any_of_row.metric == "mean_per_class" else ""
        cells = [_cell(of_row[name]) if name in of_row else "" for name in columns]
        rows.append(
            [
                any_of_row.title + unit,
                f"{any_of_row.n_train:,}",
                *cells,
                f"{100 * any_of_row.chance:.1f}",
            ]
        )
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
        for name, *cells in rows
    )


def _cell(score: Score) -> str:
    low, high = score.interval
    return f"{100 * score.value:.1f} ±{50 * (high - low):.1f}"


def read_results(path: Path) -> dict[str, Any]:
    """What was written before; empty where there is nothing, or what an older version of this program wrote.

    Raises:
        EvaluationError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error}); remove it, and scores are computed anew") from None
    current = isinstance(content, dict) and (content.get("format"), content.get("version")) == (FORMAT, VERSION)
    return content if current else {}


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write the file whole or not at all; its directory is made.

    Raises:
        EvaluationError: the system refuses.
    """
    text = json.dumps(results, indent=1) + "\n"
    _write(path, lambda file: file.write(text.encode()))


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """The same for a .npy file."""
    _write(path, lambda file: np.save(file, array))


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise EvaluationError(
            f"{path}: cannot be written ({error.strerror}); make room and repeat the command"
        ) from None


def say(line: str) -> None:
    """Print a line of progress, apart from the results."""
    print(line, file=sys.stderr, flush=True)
