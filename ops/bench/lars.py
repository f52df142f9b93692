"""Our LARS beside others: `python -m ops.bench lars`.

One update of all of an encoder's weights, float32, on one core with one thread. Lightly is in the extra `bench`, or in
an environment of its own (see `python -m ops.bench augment --help`), named by `--peer_python`.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ops.bench.measure import Answer, BenchConfig, Contestant, Run, call_alone, compare
from ops.bench.tables import machine, show
from train.arguments import parse
from train.distributed import fail
from train.errors import RunError

Count = Callable[[str, dict[str, Any], str], Answer]

OURS, LIGHTLY = "ours, as on CPUs", "lightly LARS"
_KINDS = {
    OURS: "each",
    "ours, as on CUDA": "flat",
    "timm Lars": "timm",
    LIGHTLY: "lightly",
    "torch SGD, foreach": "sgd",
}
_WANTED = {"timm Lars": 1.0}
_DISTRIBUTIONS = {"timm Lars": "timm", LIGHTLY: "lightly", "torch SGD, foreach": "torch"}


@dataclass(frozen=True, kw_only=True)
class LarsBenchConfig(BenchConfig):
    """Over which weights, and how it is measured."""

    encoder: str = "resnet50"
    """Any model of timm; its classifier is left out."""
    peer_python: str = sys.executable
    """Interpreter in which lightly is installed."""


def main(arguments: Sequence[str]) -> None:
    """Measure, and print how ours stands to each other in time, operators and bytes moved."""
    try:
        config = parse(LarsBenchConfig, arguments, prog="bench lars")
        report = compared(config)
    except RunError as error:
        fail("bench lars", error, show=True)
    if not config.json:
        report["sections"]["Counted"] = count_lines(report.pop("counts"))
    show({"machine": machine(), **report}, config, unit="updates/CPU-s")


def compared(config: LarsBenchConfig, run: Run | None = None, count: Count | None = None) -> dict[str, Any]:
    """What was measured: `sections` as `show` takes them, and `counts` by contestant.

    Args:
        config: what and how.
        run: as `measure` takes it.
        count: does a counting job in a Python; by default in a fresh process.

    Raises:
        RunError: timm has no such encoder.
    """
    shapes = shapes_of(config.encoder)
    count = count or call_alone
    contestants = [_contestant(config, name, shapes) for name in _KINDS]
    counts = {}
    for contestant in contestants:
        answer = count("ops.bench.lars_contestants:counted", contestant.options, contestant.python)
        counts[contestant.name] = answer.get("made") or {"failure": answer.get("missing") or answer["error"]}
    section = compare(contestants, config, run)
    return {"sections": {f"{config.encoder}, {len(shapes)} parameters": section}, "counts": counts}


def shapes_of(encoder: str) -> list[list[int]]:
    """Shapes of an encoder's parameters.

    Raises:
        RunError: timm has none of that name.
    """
    import timm
    import torch

    if encoder not in timm.list_models():
        raise RunError(f"encoder = {encoder}: not a model of timm")
    with torch.device("meta"):
        model = timm.create_model(encoder, num_classes=0)
    return [list(parameter.shape) for parameter in model.parameters()]


def count_lines(counts: dict[str, Answer]) -> str:
    """A table of the counts."""
    lines = [f"{'':<44}{'dispatches':>12}{'MB moved':>12}{'host syncs':>12}"]
    for name, entry in counts.items():
        told = (
            entry["failure"]
            if "failure" in entry
            else f"{entry['dispatches']:>12,}{entry['bytes_moved'] / 1e6:>12,.0f}{entry['host_syncs']:>12,}"
        )
        lines.append(f"{name:<44}{told}")
    return "\n".join(lines)


def _contestant(config: LarsBenchConfig, name: str, shapes: list[list[int]]) -> Contestant:
    return Contestant(
        name=name,
        call="ops.bench.lars_contestants:updates",
        options={"kind": _KINDS[name], "shapes": shapes},
        distributions=(_DISTRIBUTIONS[name],) if name in _DISTRIBUTIONS else (),
        python=config.peer_python if name == LIGHTLY else sys.executable,
        wanted_ratio=_WANTED.get(name),
    )
