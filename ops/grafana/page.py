"""A picture of a dashboard: its panels as cards, where Grafana would put them."""

import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from ops.grafana.answers import Span, at_an_instant
from ops.grafana.boards import Json
from ops.grafana.drawings import draw_panel

WIDTH, MARGIN, GAP = 1600, 14, 8
ROW = 34
"""Height of a grid row, as wide as Grafana's at this width, in pixels."""
COLUMNS = 24
BANNER = 54
DPI = 100
PAPER, CARD, EDGE, INK, FAINT = "#F4F5F5", "#FFFFFF", "#DCDEE0", "#24292E", "#6E7680"
NOTE = "rendered with matplotlib from Prometheus answers; not a Grafana screenshot"


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture in pixels, from its upper left corner."""

    left: float
    top: float
    width: float
    height: float


def draw_board(board: Json, span: Span, path: Path) -> None:
    """Ask what the dashboard asks, and write the picture as PNG."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    height = BANNER + bottom * ROW + MARGIN
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 8, "text.color": INK, "axes.unicode_minus": False}):
        figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
        sheet = _axes(figure, Box(0, 0, WIDTH, height), height)
        sheet.set(xlim=(0, WIDTH), ylim=(height, 0))
        sheet.text(MARGIN, 26, board["title"], fontsize=15, weight="bold", va="center")
        sheet.text(WIDTH - MARGIN, 18, NOTE, fontsize=9, color="#B3261E", ha="right", va="center")
        sheet.text(
            WIDTH - MARGIN, 36, f"the last {span.seconds:.0f} s of {_runs(span)}", color=FAINT, ha="right", va="center"
        )
        for panel in board["panels"]:
            box = _place(panel["gridPos"])
            if panel["type"] == "row":
                _heading(sheet, box, panel, _runs(span))
                continue
            _card(sheet, box, panel)
            inside = Box(box.left + 10, box.top + 30, box.width - 20, box.height - 38)
            draw_panel(panel, span, lambda part, outer=inside: _axes(figure, _part(outer, part), height), inside)
        figure_bytes = io.BytesIO()
        figure.savefig(figure_bytes, format="png", facecolor=PAPER)
    Image.open(figure_bytes).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def _runs(span: Span) -> str:
    names = sorted({series.labels.get("run", "") for series in at_an_instant('diptych_run_info{run=~"$run"}', span)})
    return ", ".join(names) or "no run"


def _place(grid: Json) -> Box:
    column = (WIDTH - 2 * MARGIN + GAP) / COLUMNS
    return Box(MARGIN + grid["x"] * column, BANNER + grid["y"] * ROW, grid["w"] * column - GAP, grid["h"] * ROW - GAP)


def _part(outer: Box, part: tuple[float, float, float, float]) -> Box:
    """A part of a box, by what it leaves out at the left, the top, the right and the bottom in pixels."""
    left, top, right, bottom = part
    return Box(outer.left + left, outer.top + top, outer.width - left - right, outer.height - top - bottom)


def _axes(figure: Figure, box: Box, height: float) -> Axes:
    bottom = height - box.top - box.height
    axes = figure.add_axes((box.left / WIDTH, bottom / height, box.width / WIDTH, box.height / height))
    axes.set_axis_off()
    return axes


def _heading(sheet: Axes, box: Box, panel: Json, runs: str) -> None:
    title = panel["title"].replace("$run", runs)
    mark, more = ("▸", f"   ({len(panel['panels'])} panels, collapsed)") if panel["collapsed"] else ("▾", "")
    sheet.text(box.left + 2, box.top + box.height / 2, f"{mark} {title}{more}", fontsize=11, weight="bold", va="center")


def _card(sheet: Axes, box: Box, panel: Json) -> None:
    shape = FancyBboxPatch(
        (box.left, box.top), box.width, box.height, boxstyle="round,pad=0,rounding_size=3", fc=CARD, ec=EDGE, lw=0.8
    )
    sheet.add_patch(shape)
    sheet.text(box.left + 10, box.top + 15, panel["title"], fontsize=9.5, weight="bold", va="center")
