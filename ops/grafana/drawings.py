"""What stands in a panel's card, kind by kind: lines, numbers, bars, tables, words."""

import re
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from ops.grafana.amounts import amount, digits, scale
from ops.grafana.answers import Series, Span, at_an_instant, over_a_range
from ops.grafana.boards import Json
from ops.grafana.card import Card

PALETTE = ("#37872D", "#E0B400", "#1F60C4", "#FA6400", "#C4162A", "#8F3BB8", "#3274D9", "#56A64B", "#FF9830", "#806EB7")
NAMED = {"green": "#37872D", "orange": "#E8850C", "red": "#C4162A"}
INK, FAINT, GRID, EMPTY = "#24292E", "#6E7680", "#E4E6E8", "#EEF0F1"
_LEGEND_LINE = 15
_TIME_STEPS = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 10**9)
"""Seconds between marks of a time axis."""
_LEAST_APART = 70
"""Pixels between them."""
Named = list[tuple[str, Series]]
"""Answers, by what the legend calls them."""


def draw_panel(panel: Json, span: Span, card: Card) -> None:
    """Ask what the panel asks, and draw the answer as its kind says."""
    kind = panel["type"]
    if kind == "text":
        _words(panel, card)
    elif kind == "table":
        _table(panel, span, card)
    elif not (answers := _answers(panel, span)):
        card.axes().text(0.5, 0.5, "No data", ha="center", va="center", fontsize=11, color=FAINT)
    elif kind == "timeseries":
        _lines(panel, answers, span, card)
    elif kind == "stat":
        _number(panel, answers, span, card)
    else:
        _bars(panel, answers, card)


def _answers(panel: Json, span: Span) -> Named:
    named: Named = []
    for target in panel["targets"]:
        ask = over_a_range if target.get("range") else at_an_instant
        named += [(series.name(target["legendFormat"]), series) for series in ask(target["expr"], span)]
    return [(name, series) for name, series in named if np.isfinite(series.values).any()]


def _lines(panel: Json, answers: Named, span: Span, card: Card) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    colours = _colours(panel, [name for name, _ in answers])
    places = _legend_places([name for name, _ in answers], card.width)
    below = _LEGEND_LINE * (places[-1][1] + 1)
    plot = card.axes(52, 4, 6, 24 + below)
    plot.set_axis_on()
    if "stacking" in defaults["custom"]:
        times = np.unique(np.concatenate([series.times for _, series in answers]))
        values = [np.interp(times, series.times, np.nan_to_num(series.values)) for _, series in answers]
        plot.stackplot(times, *values, colors=[colours[name] for name, _ in answers], alpha=0.8, lw=0)
    else:
        for name, series in answers:
            plot.plot(series.times, np.where(np.isfinite(series.values), series.values, np.nan), color=colours[name])
    _scale(plot, defaults, span)
    legend = card.axes(top=card.height - below)
    legend.set(xlim=(0, card.width), ylim=(below, 0))
    for (name, _), (x, line) in zip(answers, places, strict=True):
        y = _LEGEND_LINE * (line + 0.5)
        legend.plot([x, x + 12], [y, y], color=colours[name], lw=3, solid_capstyle="butt")
        legend.text(x + 17, y, name, va="center")


def _legend_places(names: Sequence[str], width: float) -> list[tuple[float, int]]:
    """Where each entry begins, and in which line."""
    x, line, places = 4.0, 0, []
    for name in names:
        length = 34 + 6.3 * len(name)
        if x > 4 and x + length > width:
            x, line = 4.0, line + 1
        places.append((x, line))
        x += length
    return places


def _scale(plot: Axes, defaults: Json, span: Span) -> None:
    logarithmic = defaults["custom"].get("scaleDistribution", {}).get("type") == "log"
    if logarithmic:
        plot.set_yscale("log")
    low, high = plot.get_ylim()
    if plot.dataLim.height == 0:  # a level line: matplotlib would show its last digits
        low, high = low - 0.1 * abs(low), high + 0.1 * abs(high) + (plot.dataLim.y1 == 0)
    low = defaults.get("min", low)
    high = defaults.get("max", max(high, low + 1.06 * (plot.dataLim.y1 - low)))
    factor, name = scale(max(abs(low), abs(high)), defaults["unit"])
    if not logarithmic:
        ticks = [tick * factor for tick in MaxNLocator(5).tick_values(low / factor, high / factor)]
        plot.set_yticks([tick for tick in ticks if low <= tick <= high])
    ends = "" if defaults["unit"].startswith("suffix:") else name  # the title says it
    plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value / factor, ends)))
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is not None and low < step["value"] <= high:
            plot.axhline(step["value"], color=NAMED[step["color"]], lw=1, ls="--")
    plot.set(xlim=(span.end - span.seconds, span.end), ylim=(low, high))
    apart = [step for step in _TIME_STEPS if step > span.seconds / plot.bbox.width * _LEAST_APART]
    plot.xaxis.set_major_locator(MultipleLocator(apart[0]))
    plot.xaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{datetime.fromtimestamp(time, UTC):%H:%M:%S}"))
    plot.grid(color=GRID, lw=0.7)
    plot.set_axisbelow(True)
    plot.tick_params(which="both", length=0, labelsize=7.5, labelcolor=FAINT)
    for side in plot.spines.values():
        side.set_visible(False)


def _tick(value: float, unit: str) -> str:
    written = digits(round(value, 9))
    written = written.rstrip("0").rstrip(".") if "." in written else written
    return f"{written}%" if unit == "%" else f"{written} {unit}".rstrip()


def _colours(panel: Json, names: Sequence[str]) -> dict[str, str]:
    fixed = {
        override["matcher"]["options"]: each["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
    }
    default = panel["fieldConfig"]["defaults"]["color"].get("fixedColor")
    return {name: fixed.get(name, default or PALETTE[place % len(PALETTE)]) for place, name in enumerate(names)}


def _number(panel: Json, answers: Named, span: Span, card: Card) -> None:
    defaults, options = panel["fieldConfig"]["defaults"], panel["options"]
    if options["graphMode"] == "area":
        behind = card.axes(top=0.55 * card.height)
        for _, series in answers:
            colour = _colour_of(defaults, float(series.values[-1]))
            least = min(0.0, float(np.nanmin(series.values)))
            behind.fill_between(series.times, series.values, least, color=colour, alpha=0.15, lw=0)
            behind.plot(series.times, series.values, color=colour, lw=1)
        behind.set_xlim(span.end - span.seconds, span.end)
    text = card.axes()
    named = options["textMode"] == "value_and_name" or len(answers) > 1
    room = card.width / len(answers)
    for place, (name, series) in enumerate(answers):
        value = float(series.values[np.isfinite(series.values)][-1])
        shown = amount(value, defaults["unit"], defaults.get("decimals"))
        x, size = (place + 0.5) / len(answers), min(20.0, 1.05 * room / len(shown))
        colour = _colour_of(defaults, value)
        text.text(
            x, 0.38 if named else 0.62, shown, fontsize=size, weight="bold", color=colour, ha="center", va="center"
        )
        if named:
            text.text(x, 0.8, name, fontsize=min(15.0, 1.1 * room / max(len(name), 1)), ha="center", va="center")


def _colour_of(defaults: Json, value: float) -> str:
    """By the thresholds."""
    steps = defaults["thresholds"]["steps"]
    colour = [str(step["color"]) for step in steps if step["value"] is None or value >= step["value"]][-1]
    return NAMED.get(colour, colour)


def _bars(panel: Json, answers: Named, card: Card) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    colours = _colours(panel, [name for name, _ in answers])
    plot = card.axes(84, 4, 60, 4)
    full = defaults.get("max") or max(float(series.values[-1]) for _, series in answers) or 1.0
    for place, (name, series) in enumerate(answers):
        value = float(series.values[-1])
        shown = amount(value, defaults["unit"])
        plot.barh(place, full, color=EMPTY, height=0.68)
        plot.barh(place, value, color=colours[name], height=0.68)
        plot.text(-0.03 * full, place, name, ha="right", va="center", fontsize=8.5)
        plot.text(1.03 * full, place, shown, ha="left", va="center", fontsize=8.5, weight="bold")
    plot.set(xlim=(0, full), ylim=(len(answers) - 0.5, -0.5))


def _table(panel: Json, span: Span, card: Card) -> None:
    organize = panel["transformations"][1]["options"]
    order = sorted(organize["indexByName"], key=organize["indexByName"].get)
    identity = [name for name in order if name not in organize["renameByName"]]
    units = {each["matcher"]["options"]: each["properties"][0]["value"] for each in panel["fieldConfig"]["overrides"]}
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for target in panel["targets"]:
        column = organize["renameByName"][f"Value #{target['refId']}"]
        for series in at_an_instant(target["expr"], span):
            key = tuple(series.labels.get(name, "") for name in identity)
            lines.setdefault(key, {})[column] = amount(float(series.values[-1]), units[column])
    columns = [organize["renameByName"].get(name, name) for name in order]
    sheet = card.axes()
    sheet.set(xlim=(0, len(columns)), ylim=(max(len(lines), 5) + 1, 0))
    for place, column in enumerate(columns):
        sheet.text(place + 0.05, 0.5, column, weight="bold", color="#1F60C4", va="center", fontsize=9)
    for line, (key, cells) in enumerate(sorted(lines.items()), start=1):
        sheet.axhline(line, color=GRID, lw=0.8)
        row = [*key, *(cells.get(column, "") for column in columns[len(key) :])]
        for place, cell in enumerate(row):
            sheet.text(place + 0.05, line + 0.5, cell, va="center", fontsize=9)


def _words(panel: Json, card: Card) -> None:
    content = re.sub(r"[*`]", "", panel["options"]["content"]).replace("- ", "• ")
    lines = [line for each in content.splitlines() for line in textwrap.wrap(each, int(card.width / 5.4))]
    card.axes().text(0, 1, "\n".join(lines), va="top", linespacing=1.4)
