"""What stands in a panel's card, kind by kind: lines, numbers, bars, tables, words."""

import re
import textwrap
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ops.grafana.amounts import amount
from ops.grafana.answers import Series, Span, at_an_instant, over_a_range
from ops.grafana.boards import Json

PALETTE = ("#37872D", "#E0B400", "#1F60C4", "#FA6400", "#C4162A", "#8F3BB8", "#3274D9", "#56A64B", "#FF9830", "#806EB7")
NAMED = {"green": "#37872D", "orange": "#E8850C", "red": "#C4162A"}
INK, FAINT, GRID = "#24292E", "#6E7680", "#E4E6E8"
NewAxes = Callable[[tuple[float, float, float, float]], Axes]
"""Makes axes in the card, less so many pixels at the left, the top, the right and the bottom."""
Named = list[tuple[str, Series]]


class Size(Protocol):
    """Of the card's inside, in pixels."""

    @property
    def width(self) -> float: ...
    @property
    def height(self) -> float: ...


def draw_panel(panel: Json, span: Span, axes: NewAxes, size: Size) -> None:
    """Ask what the panel asks, and draw the answer as its kind says."""
    if panel["type"] == "text":
        return _words(panel, axes((0, 0, 0, 0)), size)
    if panel["type"] == "table":
        return _table(panel, span, axes((0, 0, 0, 0)))
    answers = _answers(panel, span)
    if not answers:
        axes((0, 0, 0, 0)).text(0.5, 0.5, "No data", ha="center", va="center", fontsize=11, color=FAINT)
        return None
    draw = {"timeseries": _lines, "stat": _number, "bargauge": _bars}[panel["type"]]
    return draw(panel, answers, span, axes, size)


def _answers(panel: Json, span: Span) -> Named:
    named: Named = []
    for target in panel["targets"]:
        ask = over_a_range if target.get("range") else at_an_instant
        named += [(series.name(target["legendFormat"]), series) for series in ask(target["expr"], span)]
    return [(name, series) for name, series in named if np.isfinite(series.values).any()]


def _lines(panel: Json, answers: Named, span: Span, axes: NewAxes, size: Size) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    stacked = "stacking" in defaults["custom"]
    colours = _colours(panel, [name for name, _ in answers])
    rows = _legend_rows([name for name, _ in answers], size.width)
    plot = axes((52, 4, 6, 24 + 15 * rows))
    plot.set_axis_on()
    if stacked:
        answers = [(name, series) for name, series in answers if np.nan_to_num(series.values).max() > 0] or answers
        times = np.unique(np.concatenate([series.times for _, series in answers]))
        values = [np.interp(times, series.times, np.nan_to_num(series.values)) for _, series in answers]
        plot.stackplot(times, *values, colors=[colours[name] for name, _ in answers], alpha=0.8, lw=0)
    else:
        for name, series in answers:
            plot.plot(series.times, series.values, color=colours[name], lw=1.5)
    _scale(plot, defaults, span)
    legend = axes((0, size.height - 15 * rows, 0, 0))
    legend.set(xlim=(0, size.width), ylim=(15 * rows, 0))
    x, y = 4.0, 8.0
    for name, _ in answers:
        length = _legend_width(name)
        if x + length > size.width and x > 4:
            x, y = 4.0, y + 15
        legend.plot([x, x + 12], [y, y], color=colours[name], lw=3, solid_capstyle="butt")
        legend.text(x + 17, y, name, va="center", color=INK, fontsize=8)
        x += length


def _legend_width(name: str) -> float:
    return 32 + 6.2 * len(name)


def _legend_rows(names: Sequence[str], width: float) -> int:
    x, rows = 4.0, 1
    for name in names:
        if x + _legend_width(name) > width and x > 4:
            x, rows = 4.0, rows + 1
        x += _legend_width(name)
    return rows


def _scale(plot: Axes, defaults: Json, span: Span) -> None:
    plot.set_xlim(span.end - span.seconds, span.end)
    plot.xaxis.set_major_locator(MaxNLocator(5))
    plot.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{datetime.fromtimestamp(t, UTC):%H:%M:%S}"))
    plot.yaxis.set_major_locator(MaxNLocator(5))
    plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value, defaults["unit"])))
    low, high = plot.get_ylim()
    low, high = defaults.get("min", low), defaults.get("max", high)
    if high - low < 1e-9 * max(abs(high), 1e-9):
        high = low + 1
    limits = [step for step in defaults["thresholds"]["steps"] if step["value"] is not None]
    for step in limits:
        if low < step["value"] <= high:
            plot.axhline(step["value"], color=NAMED.get(step["color"], step["color"]), lw=1, ls="--")
    plot.set_ylim(low, high)
    plot.grid(color=GRID, lw=0.7)
    plot.set_axisbelow(True)
    plot.tick_params(length=0, labelsize=7.5, labelcolor=FAINT)
    for side in plot.spines.values():
        side.set_visible(False)


def _colours(panel: Json, names: Sequence[str]) -> dict[str, str]:
    fixed = {
        override["matcher"]["options"]: each["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
        if each["id"] == "color"
    }
    return {name: fixed.get(name, PALETTE[place % len(PALETTE)]) for place, name in enumerate(names)}


def _number(panel: Json, answers: Named, span: Span, axes: NewAxes, size: Size) -> None:
    defaults, options = panel["fieldConfig"]["defaults"], panel["options"]
    if options["graphMode"] == "area":
        behind = axes((0, size.height * 0.55, 0, 0))
        for _, series in answers:
            colour = _threshold_colour(defaults, float(series.values[-1]))
            behind.fill_between(
                series.times, series.values, min(0.0, float(np.nanmin(series.values))), color=colour, alpha=0.15, lw=0
            )
            behind.plot(series.times, series.values, color=colour, lw=1)
        behind.set_xlim(span.end - span.seconds, span.end)
    text = axes((0, 0, 0, 0))
    named = options["textMode"] == "value_and_name" or len(answers) > 1
    for place, (name, series) in enumerate(answers):
        value = float(series.values[np.isfinite(series.values)][-1])
        colour = _threshold_colour(defaults, value)
        shown = amount(value, defaults["unit"], defaults.get("decimals"))
        x = (place + 0.5) / len(answers)
        fits = min(20.0, 1.35 * size.width / len(answers) / max(len(shown), 1))
        text.text(
            x, 0.42 if named else 0.6, shown, fontsize=fits, weight="bold", color=colour, ha="center", va="center"
        )
        if named:
            fits = min(15.0, 1.3 * size.width / len(answers) / max(len(name), 1))
            text.text(x, 0.8, name, fontsize=fits, ha="center", va="center", color=INK)


def _threshold_colour(defaults: Json, value: float) -> str:
    colour = ""
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return NAMED.get(colour, colour)


def _bars(panel: Json, answers: Named, span: Span, axes: NewAxes, size: Size) -> None:  # noqa: ARG001  # as the others
    defaults = panel["fieldConfig"]["defaults"]
    colours = _colours(panel, [name for name, _ in answers])
    plot = axes((84, 4, 56, 4))
    values = [float(series.values[-1]) for _, series in answers]
    full = defaults.get("max") or max(values) or 1.0
    for place, ((name, _), value) in enumerate(zip(answers, values, strict=True)):
        plot.barh(place, full, color="#EEF0F1", height=0.68)
        plot.barh(place, value, color=colours[name], height=0.68)
        plot.text(-0.03 * full, place, name, ha="right", va="center", fontsize=8.5)
        plot.text(
            1.03 * full, place, amount(value, defaults["unit"]), ha="left", va="center", fontsize=8.5, weight="bold"
        )
    plot.set(xlim=(0, full), ylim=(len(answers) - 0.5, -0.5))


def _table(panel: Json, span: Span, sheet: Axes) -> None:
    organize = panel["transformations"][1]["options"]
    units = {each["matcher"]["options"]: each["properties"][0]["value"] for each in panel["fieldConfig"]["overrides"]}
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    identity = [name for name in organize["indexByName"] if not name.startswith("Value #")]
    for target in panel["targets"]:
        column = organize["renameByName"][f"Value #{target['refId']}"]
        for series in at_an_instant(target["expr"], span):
            key = tuple(series.labels.get(name, "") for name in identity)
            lines.setdefault(key, {})[column] = amount(float(series.values[-1]), units[column])
    columns = [*identity, *organize["renameByName"].values()]
    rows = [
        [*key, *(cells.get(column, "") for column in columns[len(identity) :])] for key, cells in sorted(lines.items())
    ]
    sheet.set(xlim=(0, len(columns)), ylim=(max(len(rows), 5) + 1, 0))
    for place, column in enumerate(columns):
        sheet.text(place + 0.05, 0.5, column, weight="bold", color="#1F60C4", va="center", fontsize=9)
        for line, row in enumerate(rows):
            sheet.text(place + 0.05, line + 1.5, row[place], va="center", fontsize=9)
    for line in range(len(rows) + 1):
        sheet.axhline(line + 1, color=GRID, lw=0.8)


def _words(panel: Json, sheet: Axes, size: Size) -> None:
    content = re.sub(r"[*`]", "", panel["options"]["content"])
    lines = [line for paragraph in content.splitlines() for line in textwrap.wrap(paragraph, int(size.width / 5.6))]
    sheet.text(0, 1, "\n".join(lines), va="top", fontsize=8, linespacing=1.35)
