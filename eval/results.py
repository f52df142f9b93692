"""Scores as a table for people and as results.json for programs."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.errors import EvaluationError

REPRESENTATIONS = {"encoder": "encoder", "random_init": "random init", "raw_pixels": "raw pixels"}
"""By their name in results.json: as the table calls them."""


def table(results: dict[str, Any], protocols: Sequence[str]) -> str:
    """Top-1 in per cent: a row per protocol, the encoder beside its controls."""
    data, controls = results["data"], results["controls"]
    rows = [["protocol", *REPRESENTATIONS.values(), "chance"]]
    for protocol in protocols:
        shares = [
            results[protocol]["top1"],
            controls["random_init"][protocol],
            controls["raw_pixels"][protocol],
            controls["chance"],
        ]
        rows.append([protocol, *(f"{100 * share:.1f}" for share in shares)])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
        for name, *cells in rows
    ]
    title = (
        f"{data['name']}, split {data['split']}: top-1 of {data['n_test']:,} images in per cent, "
        f"learnt from {data['n_train']:,}; encoder of step {results['encoder']['step']:,}"
    )
    return "\n".join([title, "", *lines])


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write the file whole or not at all; its directory is made.

    Raises:
        EvaluationError: the system refuses.
    """
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w") as file:
            file.write(json.dumps(results, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be written ({error.strerror}); the scores are printed above") from None


def say(line: str) -> None:
    """Print a line of progress, apart from the results."""
    print(line, file=sys.stderr, flush=True)
