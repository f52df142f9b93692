"""How the runs went: numbers of metrics.jsonl by epoch, all runs in one set of axes, with the places of resumes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from eval.pages.figures import COLOURS, Picture, dash_pattern, inline_svg, new_axes, page_style, plain_logarithmic
from eval.pages.run_files import Line, Run

Floats = npt.NDArray[np.float64]
MOST_POINTS = 400
"""Of a curve; a longer one is drawn as means over equal parts of its lines."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of a log line."""

    key: str
    title: str
    meaning: str
    logarithmic: bool = False


QUANTITIES = (
    Quantity(key="loss", title="Loss", meaning="NT-Xent or what loss.name says, in nats, of the global batch"),
    Quantity(key="probe_top1", title="Online probe", meaning="share of views named rightly before it learnt from them"),
    Quantity(key="learning_rate", title="Learning rate", meaning="of the update"),
    Quantity(key="images_per_second", title="Throughput", meaning="images per second over all ranks"),
    Quantity(key="gradient_norm", title="Gradient norm", meaning="over all parameters", logarithmic=True),
    Quantity(key="largest_trust_ratio", title="Largest trust ratio", meaning="of LARS's layers", logarithmic=True),
    Quantity(
        key="health.contrastive_top1",
        title="Contrastive top-1",
        meaning="share of anchors whose positive is nearer than every negative",
    ),
    Quantity(
        key="health.alignment",
        title="Alignment",
        meaning="mean squared distance of positives; 0 where representations have collapsed",
    ),
    Quantity(
        key="health.uniformity",
        title="Uniformity",
        meaning="log mean exp(-2 squared distance) of all pairs; 0 where representations have collapsed",
    ),
    Quantity(
        key="health.effective_rank",
        title="Effective rank",
        meaning="of the projections (RankMe); 1 where they have collapsed",
    ),
    Quantity(
        key="health.feature_std",
        title="Spread of h",
        meaning="standard deviation of normalised h, times √F; 0 where it has collapsed",
    ),
    Quantity(key="health.positive_similarity", title="Similarity of positives", meaning="mean cosine"),
    Quantity(key="health.negative_similarity", title="Similarity of negatives", meaning="mean cosine"),
)


def draw_curves(runs: Sequence[Run]) -> list[Picture]:
    """A picture per quantity that any run has; none if there are no log lines."""
    return [picture for quantity in QUANTITIES if (picture := _draw(quantity, runs)) is not None]


def series(run: Run, key: str) -> tuple[Floats, Floats]:
    """Epochs and values of one number, in order; lines without it are left out.

    A change of the configuration goes on from a checkpoint: lines after that, of what was there before, are left out.
    """
    points = [(line["epoch"], line[key]) for line in _joined(run.logs) if key in line and math.isfinite(line[key])]
    epochs, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return epochs, values


def resumed_at(run: Run) -> list[float]:
    """Epochs at which the run was started again, and at which its configuration was changed.

    A start tells its step only: where a change of the configuration has changed the number of steps in an epoch, starts
    are not told, changes are.
    """
    per_epoch = {round(log[0]["step"] / log[0]["epoch"]) for log in run.logs if log and log[0]["epoch"] > 0}
    changes = [log[0]["epoch"] for log in run.logs[1:] if log]
    if len(per_epoch) != 1:
        return changes
    (steps,) = per_epoch
    starts = [start.get("step") for start in run.starts[1:]]
    return [step / steps for step in starts if isinstance(step, int)] + changes


def thinned(epochs: Floats, values: Floats) -> tuple[Floats, Floats]:
    """At most MOST_POINTS points: means over parts of as many lines, as nearly as it can be."""
    if len(values) <= MOST_POINTS:
        return epochs, values
    ends = np.linspace(0, len(values), MOST_POINTS + 1).round().astype(int)
    parts = [slice(first, end) for first, end in pairwise(ends.tolist())]
    return np.array([epochs[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def _joined(logs: Sequence[Sequence[Line]]) -> list[Line]:
    lines: list[Line] = []
    for log in logs:
        if log:
            lines = [line for line in lines if line["epoch"] < log[0]["epoch"]] + list(log)
    return lines


@page_style
def _draw(quantity: Quantity, runs: Sequence[Run]) -> Picture | None:
    curves = [series(run, quantity.key) for run in runs]
    if not any(len(values) for _, values in curves):
        return None
    figure, axes = new_axes(4.2, 2.5)
    told = []
    for number, (run, (epochs, values)) in enumerate(zip(runs, curves, strict=True)):
        if not len(values):
            continue
        axes.plot(*thinned(epochs, values), color=COLOURS[number], linestyle=dash_pattern(number), linewidth=1.4)
        for epoch in resumed_at(run):
            axes.axvline(epoch, color=COLOURS[number], linestyle=":", linewidth=1)
        told.append(f"{run.name} from {values[0]:.4g} to {values[-1]:.4g}")
    if quantity.logarithmic and all((values > 0).all() for _, values in curves):
        axes.set_yscale("log")
        plain_logarithmic(axes.yaxis)
    axes.set_xlabel("epoch")
    axes.set_title(quantity.title, loc="left", fontweight="bold", fontsize=10)
    label = f"{quantity.title} by epoch: {'; '.join(told)}."
    name = f"curve-{quantity.key.replace('.', '-').replace('_', '-')}"
    return Picture(svg=inline_svg(figure, name, label), caption=quantity.meaning)
