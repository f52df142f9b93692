"""What a step costs against global batch, image size, encoder and ranks: `python -m ops.bench scaling --config FILE`.

Sweeps around one configuration, each changing one thing. A step is that of a run, views and update, from canvases of
noise that lie on the device: reading and decoding are not in it (`python -m ops.bench loader`). Ranks are processes on
this machine, by gloo on the CPU, whose cores they share, and by NCCL on GPUs, one each. All points are measured in
turns, round after round, so that a slow minute of the machine meets them all.
"""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import PositiveInt

from model.errors import ModelError
from ops.bench.scaling_points import Point, describe, points
from ops.bench.tables import machine
from train.arguments import parse
from train.config import PretrainConfig
from train.distributed import fail, runs_on_cpu
from train.errors import RunError

if TYPE_CHECKING:
    from ops.bench.wire_formulas import Network
    from ops.bench.wire_watch import TrafficByKind

_MORE_RANKS = (8, 64, 512)
"""For which the traffic is worked out, too."""


@dataclass(frozen=True, kw_only=True)
class ScalingBenchConfig(PretrainConfig):
    """The run that the sweeps go around, and how it is measured."""

    batches: str = ""
    """Global batches, such as 256,512. Empty: half, and twice, the run's."""
    sizes: str = ""
    """Sides of views in pixels; the canvas changes with them. Empty: half, and twice."""
    encoders: str = ""
    """NAME, NAME:WIDTH or WIDTH each, such as resnet34,resnet18:0.5. Empty: half, and twice, a ResNet's width."""
    ranks: str = ""
    """Such as 1,2. Empty: 1, 2 and 4, as far as there are GPUs, or cores."""
    repeats: PositiveInt = 5
    """Rounds; the median counts."""
    steps: PositiveInt = 4
    """Timed steps of each point per round; one more comes first."""
    json: bool = False
    """Print JSON instead of tables."""


def main(arguments: Sequence[str]) -> None:
    """Measure, and print a table of the sweeps and one of what ranks send each other."""
    try:
        config = parse(ScalingBenchConfig, arguments, prog="bench scaling")
        if config.micro_batch:
            raise RunError("micro_batch: the traffic between ranks is worked out for one forward pass a step; use 0")
        report = measure(config)
    except (RunError, ModelError) as error:
        fail("bench scaling", error, show=True)
    print(json.dumps(report, indent=1) if config.json else "\n".join(lines(report)))


def measure(config: ScalingBenchConfig) -> dict[str, Any]:
    """Measure all points.

    Returns:
        machine, device and settings; points, each with its sweep, label, ranks, seconds of a step (median, lowest and
        highest), images_per_second and `to_base`, this rate to that of the first point; traffic by number of ranks.

    Raises:
        RunError, ModelError: a point cannot be.
    """
    import torch

    from model.encoder import build_encoder
    from ops.bench.scaling_ranks import RankProcesses, RankSteps

    on_cpu = runs_on_cpu(config)
    most_ranks = len(os.sched_getaffinity(0)) if on_cpu else torch.cuda.device_count()
    all_points = points(config, config.batches, config.sizes, config.encoders, config.ranks, most_ranks)
    for point in all_points:
        build_encoder(point.config.encoder, point.config.views.size)  # one that cannot be is refused before the others
    by_ranks: dict[int, list[int]] = {}
    for number, point in enumerate(all_points):
        by_ranks.setdefault(point.ranks, []).append(number)
    with ExitStack() as stack:
        groups: dict[int, RankSteps | RankProcesses] = {}
        for ranks, mine in by_ranks.items():
            configs = [all_points[number].config for number in mine]
            alone = ranks == 1
            groups[ranks] = RankSteps(configs, 0, 1) if alone else stack.enter_context(RankProcesses(configs, ranks))
        seconds: list[list[float]] = [[] for _ in all_points]
        for _ in range(config.repeats):
            for number, point in enumerate(all_points):
                place = by_ranks[point.ranks].index(number)
                seconds[number].append(groups[point.ranks].seconds(place, config.steps))
        shared = {point.ranks: point for point in all_points if point.sweep == "ranks share the batch"}
        traffic = {ranks: traffic_of(point.config, ranks, *groups[ranks].traffic(0)) for ranks, point in shared.items()}
    rows = [_row(point, measured) for point, measured in zip(all_points, seconds, strict=True)]
    for row in rows:
        row["to_base"] = row["images_per_second"] / rows[0]["images_per_second"]
    return {
        "machine": machine(),
        "device": "cpu" if on_cpu else torch.cuda.get_device_name(),
        "run": describe(config),
        "precision": config.precision,
        "repeats": config.repeats,
        "steps": config.steps,
        "points": rows,
        "traffic": traffic,
    }


def traffic_of(config: PretrainConfig, ranks: int, counted: "TrafficByKind", network: "Network") -> dict[str, Any]:
    """What was counted beside what is worked out, and the latter for more ranks of as many images each.

    Returns:
        kinds, each with carried, operation, calls, bytes that a rank puts in, bytes_by_formula and sent_bytes, of a
        ring; and `more_ranks`, bytes that a rank sends in all, by their number.
    """
    from ops.bench.wire_formulas import sent_bytes, step_traffic
    from ops.bench.wire_watch import Traffic

    device = "cpu" if runs_on_cpu(config) else "cuda"
    formulas = step_traffic(config, network, ranks, device)
    del formulas["agreement", "all-reduce"]  # between two steps, on hosts: none of the trainer's
    kinds = []
    for key in sorted(formulas.keys() | counted.keys()):
        carried, operation = key
        real = counted.get(key, Traffic(0, 0))
        kinds.append(
            {
                "carried": carried,
                "operation": operation,
                "calls": real.calls,
                "bytes": real.bytes,
                "bytes_by_formula": formulas.get(key, Traffic(0, 0)).bytes,
                "sent_bytes": sent_bytes(operation, real.bytes, ranks),
            }
        )
    more = {}
    for count in _MORE_RANKS:
        larger = replace(config, global_batch=config.global_batch // ranks * count)
        there = step_traffic(larger, network, count, device)
        more[count] = sum(sent_bytes(operation, each.bytes, count) for (_, operation), each in there.items())
    return {"kinds": kinds, "more_ranks": more}


def lines(report: dict[str, Any]) -> list[str]:
    """Of what `measure` returned."""
    where = report["machine"]
    told = [
        f"{where['cpu']}, {where['cores']} cores, {report['device']}, {report['precision']}, {where['date']}",
        f"Median of {report['repeats']} interleaved blocks of {report['steps']} steps; the base is {report['run']}.",
        "",
        f"{'sweep':<24}{'':<20}{'ms/step':>10}{'lowest - highest':>22}{'images/s':>12}{'to base':>9}",
    ]
    for row in report["points"]:
        label = "" if row["sweep"] == "this run" else row["label"]
        spread = f"{1000 * row['lowest']:,.1f} - {1000 * row['highest']:,.1f}"
        told.append(
            f"{row['sweep']:<24}{label:<20}{1000 * row['median']:>10,.1f}{spread:>22}"
            f"{row['images_per_second']:>12,.0f}{row['to_base']:>9.2f}"
        )
    for ranks, traffic in report["traffic"].items():
        told += [
            "",
            f"{f'in a step, on each of {ranks} ranks':<42}{'calls':>8}{'bytes in':>14}{'by formula':>14}{'sent':>14}",
        ]
        for kind in traffic["kinds"]:
            told.append(
                f"{kind['carried']:<30}{kind['operation']:<12}{kind['calls']:>8,}{kind['bytes']:>14,}"
                f"{kind['bytes_by_formula']:>14,}{kind['sent_bytes']:>14,}"
            )
        more = ", ".join(f"{count} ranks {sent / 1e6:,.2f} MB" for count, sent in traffic["more_ranks"].items())
        told.append(f"sent by each of more ranks with as many images, by the formulas: {more}")
    return told


def _row(point: Point, seconds: list[float]) -> dict[str, Any]:
    middle = median(seconds)
    return {
        "sweep": point.sweep,
        "label": point.label,
        "ranks": point.ranks,
        "global_batch": point.config.global_batch,
        "median": middle,
        "lowest": min(seconds),
        "highest": max(seconds),
        "images_per_second": point.config.global_batch / middle,
    }
