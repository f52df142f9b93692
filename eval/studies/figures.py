"""A study as a figure of the paper's kind, drawn by matplotlib."""

import textwrap
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from eval.errors import EvaluationError
from eval.studies.published import COMPOSED, COMPOSITIONS, SOURCE
from eval.studies.results import COLUMN_TITLES, shares, subtitle
from eval.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDE, _HIGH = 4.2, 3.8
_KEYS = {
    "matrix": "Top-1 in per cent, mean over seeds; each panel has its own shades.",
    "bars": "Bars are means over seeds, dots the seeds.",
    "points": "Lines are means over seeds, dots the seeds.",
}


def refuse_without_matplotlib() -> None:
    """Check that figures can be drawn.

    Raises:
        EvaluationError: the library is not installed.
    """
    if find_spec("matplotlib") is None:
        raise EvaluationError("matplotlib is not installed, which draws the figure; `pip install matplotlib`")


def draw(study: Study, results: Mapping[str, Any], path: Path) -> None:
    """Write the figure as path.png and path.svg.

    Raises:
        EvaluationError: the system refuses.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # No element of the SVG may be named by chance: the same results are the same file.
    with rc_context({"svg.hashsalt": study.name, "font.size": 8, "svg.fonttype": "none"}):
        figure = {"matrix": _matrices, "bars": _bar_charts, "points": _point_charts}[study.figure](study, results)
        figure.suptitle(study.title, fontsize=10)
        said = (_KEYS[study.figure], f"{subtitle(results)}; {_unfinished(results)}.")
        note = [textwrap.fill(line, int(figure.get_figwidth() * 19)) for line in said]
        figure.supxlabel("\n".join(note), fontsize=7, color="0.35")
        FigureCanvasAgg(figure)
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            partial = path.with_name(f".{path.name}.partial{suffix}")
            try:
                figure.savefig(partial, dpi=160, metadata=metadata)
                partial.replace(path.with_suffix(suffix))
            except OSError as error:
                raise EvaluationError(f"{path}{suffix}: cannot be written ({error.strerror}); make room") from None


def _unfinished(results: Mapping[str, Any]) -> str:
    runs = [run for cell in results["cells"] for run in cell["runs"]]
    done = sum(set(results["columns"]) <= set(run["scores"]) for run in runs)
    return f"all {len(runs)} runs" if done == len(runs) else f"{done} of {len(runs)} runs, the others are missing"


def _axes(count: int, width: float = _WIDE) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, _HIGH), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _title(column: str) -> str:
    return COLUMN_TITLES.get(column, {"knn": "kNN"}.get(column, column))


def _matrices(study: Study, results: Mapping[str, Any]) -> "Figure":
    """Figure 5: a heat map per protocol, and the paper's; single operations on the diagonal."""
    names = [cell.place[0] for cell in study.cells if cell.place[0] == cell.place[1]]
    values: dict[str, dict[tuple[str, str], float]] = {}
    for column in results["columns"]:
        values[_title(column)] = {}
        for cell, told in zip(study.cells, results["cells"], strict=True):
            found = shares(told, column)
            if found:
                first, second = cell.place
                values[_title(column)] |= dict.fromkeys(((first, second), (second, first)), 100 * mean(found))
    place = COMPOSED.index
    theirs = {(a, b): COMPOSITIONS[place(a)][place(b)] for a in names for b in names}
    values[f"linear, {SOURCE}"] = theirs
    figure, axes = _axes(len(values), width=1.2 + 0.48 * len(names))
    for axis, (title, numbers) in zip(axes, values.items(), strict=True):
        _matrix(axis, title, names, numbers)
    axes[0].set_ylabel("operation")
    return figure


def _matrix(axis: "Axes", title: str, names: list[str], numbers: Mapping[tuple[str, str], float]) -> None:
    low, high = min(numbers.values(), default=0.0), max(numbers.values(), default=1.0)
    grid = [[numbers.get((row, column), float("nan")) for column in names] for row in names]
    axis.imshow(grid, cmap="Blues", vmin=low - 0.1 * (high - low), vmax=high)
    axis.set_facecolor("0.92")  # of what is missing
    for i, row in enumerate(names):
        for j, column in enumerate(names):
            number = numbers.get((row, column))
            dark = number is not None and number > low + 0.45 * (high - low)
            text = "missing" if number is None else f"{number:.1f}"
            axis.text(j, i, text, ha="center", va="center", color="white" if dark else "black", fontsize=7)
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_title("\n".join(textwrap.wrap(title, 26)), fontsize=8)


def _bar_charts(study: Study, results: Mapping[str, Any]) -> "Figure":
    """Figures 8 and 9: groups of bars, a panel per score; whiskers are the range over seeds, dots the seeds."""
    grouped = len(study.axes) > 1
    places = list(dict.fromkeys(cell.place[0] for cell in study.cells))
    series = list(dict.fromkeys(cell.place[1] for cell in study.cells)) if grouped else [""]
    figure, axes = _axes(len(results["columns"]), width=max(_WIDE, 0.3 * len(places) * len(series)))
    told = {cell.place: entry for cell, entry in zip(study.cells, results["cells"], strict=True)}
    for axis, column in zip(axes, results["columns"], strict=True):
        for x, place in enumerate(places):
            group = [index for index, name in enumerate(series) if (place, name)[: len(study.axes)] in told]
            for position, index in enumerate(group):
                values = [100 * share for share in shares(told[(place, series[index])[: len(study.axes)]], column)]
                middle = x + 0.8 / len(series) * (position - (len(group) - 1) / 2)
                _bar(axis, middle, 0.8 / len(series), values, f"C{index}")
        if grouped:
            for index, name in enumerate(series):
                axis.bar([0], [0], color=f"C{index}", label=f"{study.axes[1]}: {name}")  # for the legend
        axis.set_xlim(-0.5, len(places) - 0.5)
        axis.set_xticks(range(len(places)), places, rotation=25 * (max(map(len, places)) > 8), ha="center")
        axis.set_xlabel(study.axes[0])
        _scale(axis, [100 * share for entry in results["cells"] for share in shares(entry, column)])
        axis.set_title(_title(column), fontsize=8)
    axes[0].set_ylabel("top-1, %; not from 0")
    if grouped:
        axes[-1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _bar(axis: "Axes", x: float, width: float, values: list[float], colour: str) -> None:
    if not values:
        axis.text(x, 0.02, "missing", rotation=90, ha="center", color="0.4", transform=axis.get_xaxis_transform())
        return
    middle = mean(values)
    whiskers = [[middle - min(values)], [max(values) - middle]]
    axis.bar([x], [middle], width=0.92 * width, yerr=whiskers, color=colour, ecolor="0.2", capsize=2)
    axis.plot([x] * len(values), values, ".", color="0.2", markersize=3)


def _scale(axis: "Axes", values: list[float]) -> None:
    """Show differences: from somewhat below the lowest value; the axis says where it begins."""
    if values:
        room = max(1.0, 0.25 * (max(values) - min(values)))
        axis.set_ylim(max(0.0, min(values) - 2 * room), min(100.0, max(values) + room))


def _point_charts(study: Study, results: Mapping[str, Any]) -> "Figure":
    """Figure 7: accuracy over the encoder's parameters, a line per depth."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = _axes(len(results["columns"]))
    depths = list(dict.fromkeys(cell.place[0] for cell in study.cells))
    for axis, column in zip(axes, results["columns"], strict=True):
        for index, depth in enumerate(depths):
            cells = [told for told in results["cells"] if told["place"][study.axes[0]] == depth]
            known = [told for told in cells if shares(told, column) and told["parameters"]]
            means = [100 * mean(shares(told, column)) for told in known]
            sizes = [told["parameters"] / 1e6 for told in known]
            axis.plot(sizes, means, "o-", color=f"C{index}", label=depth, markersize=4)
            for told, size, middle in zip(known, sizes, means, strict=True):
                axis.plot([size] * len(told["runs"]), _padded(told, column), ".", color="0.2", markersize=3)
                axis.annotate(
                    f"x{told['place'][study.axes[1]]}", (size, middle), xytext=(5, -9), textcoords="offset points"
                )
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.margins(0.15)  # for the widths beside the points
        axis.set_xlabel("parameters of the encoder, millions")
        axis.set_title(_title(column), fontsize=8)
    axes[0].set_ylabel("top-1, %")
    axes[-1].legend(fontsize=7, frameon=False)
    return figure


def _padded(told: Mapping[str, Any], column: str) -> list[float]:
    values = [100 * share for share in shares(told, column)]
    return values + [float("nan")] * (len(told["runs"]) - len(values))
