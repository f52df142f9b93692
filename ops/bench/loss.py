"""Our NT-Xent beside others: `python -m ops.bench loss`.

Value and gradient of all rows, float32, on one core with one thread. Lightly is in the extra `bench`, or in an
environment of its own (see `python -m ops.bench augment --help`), named by `--peer_python`.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse.typing import PositiveFloat, PositiveInt

from ops.bench.measure import Answer, BenchConfig, Contestant, Run, call_alone, compare
from ops.bench.tables import machine, show
from train.arguments import parse
from train.distributed import fail
from train.errors import RunError

Count = Callable[[str, dict[str, Any], str], Answer]

OURS, NAIVE, LIGHTLY = "ours", "naive, the whole matrix", "lightly NTXentLoss"
_KINDS = {OURS: "ours", "ours, by tiles": "tiles", "ours, by rows": "rows", NAIVE: "naive", LIGHTLY: "lightly"}
_SPEED_WANTED = {NAIVE: 1 / 0.6, LIGHTLY: 1.0}
_MEMORY_WANTED = {NAIVE: 30.0, LIGHTLY: 1.0}
_SAME = 1e-4
"""Relative difference up to which two losses count as the same."""


@dataclass(frozen=True, kw_only=True)
class LossBenchConfig(BenchConfig):
    """How much, and how it is measured."""

    rows: PositiveInt = 16384
    """2N, both views of the global batch; even."""
    dim: PositiveInt = 128
    """Of a projection."""
    temperature: PositiveFloat = 0.1
    """tau."""
    peer_python: str = sys.executable
    """Interpreter in which lightly is installed."""

    def __post_init__(self) -> None:
        if self.rows % 2:
            raise ValueError(f"rows = {self.rows}: must be even, two views of each image")


def main(arguments: Sequence[str]) -> None:
    """Measure, and print how ours stands to each other in time, memory and operators."""
    try:
        config = parse(LossBenchConfig, arguments, prog="bench loss")
        report = compared(config)
    except RunError as error:
        fail("bench loss", error, show=True)
    if not config.json:
        report["sections"]["Counted"] = count_lines(report.pop("counts"))
    show({"machine": machine(), **report}, config, unit="rows/CPU-s")


def compared(config: LossBenchConfig, run: Run | None = None, count: Count | None = None) -> dict[str, Any]:
    """What was measured: `sections` as `show` takes them, and `counts` by contestant.

    Args:
        config: what and how.
        run: as `measure` takes it.
        count: does a counting job in a Python; by default in a fresh process.

    Raises:
        RunError: a contestant computes another loss.
    """
    counts = counted(config, count or call_alone)
    section = compare([_contestant(config, name) for name in _KINDS], config, run)
    return {"sections": {f"2N = {config.rows:,}, D = {config.dim}": section}, "counts": counts}


def counted(config: LossBenchConfig, count: Count) -> dict[str, Answer]:
    """Operators, memory and value of each; others have memory_ratio, theirs to ours."""
    counts: dict[str, Answer] = {}
    for name in _KINDS:
        contestant = _contestant(config, name)
        answer = count("ops.bench.loss_contestants:counted", contestant.options, contestant.python)
        counts[name] = answer.get("made") or {"failure": answer.get("missing") or answer["error"]}
    ours = counts[OURS]
    for name, entry in counts.items():
        if "failure" in entry or "failure" in ours:
            continue
        for number, scale in (
            ("value", ours["value"]),
            ("gradient_norm", ours["gradient_norm"]),
            ("gradient_along", 1),
        ):
            if abs(entry[number] - ours[number]) > _SAME * abs(scale):
                raise RunError(
                    f"{name}: {number} is {entry[number]}, ours {ours[number]}; they compute different losses"
                )
        if name != OURS:
            entry["memory_ratio"] = entry["peak_bytes"] / ours["peak_bytes"]
            entry["memory_wanted"] = _MEMORY_WANTED.get(name)
    return counts


def count_lines(counts: dict[str, Answer]) -> str:
    """A table of what `counted` returned."""
    lines = [f"{'':<44}{'dispatches':>12}{'peak MB':>10}{'it/ours':>10}{'wanted':>10}{'value':>12}"]
    for name, entry in counts.items():
        if "failure" in entry:
            lines.append(f"{name:<44}{entry['failure']}")
            continue
        ratio = f"{entry['memory_ratio']:.1f}" if "memory_ratio" in entry else ""
        wanted = f">= {entry['memory_wanted']:g}" if entry.get("memory_wanted") else ""
        lines.append(
            f"{name:<44}{entry['dispatches']:>12,}{entry['peak_bytes'] / 1e6:>10,.1f}{ratio:>10}{wanted:>10}"
            f"{entry['value']:>12.6f}"
        )
    return "\n".join(lines)


def _contestant(config: LossBenchConfig, name: str) -> Contestant:
    return Contestant(
        name=name,
        call="ops.bench.loss_contestants:losses",
        options={
            "kind": _KINDS[name],
            "rows": int(config.rows),
            "dim": int(config.dim),
            "temperature": float(config.temperature),
        },
        distributions=("lightly",) if name == LIGHTLY else (),
        python=config.peer_python if name == LIGHTLY else sys.executable,
        wanted_ratio=_SPEED_WANTED.get(name),
    )
