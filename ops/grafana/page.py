"""A picture of a dashboard: its panels as cards, where Grafana would put them."""

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from ops.grafana.answers import Span, at_an_instant
from ops.grafana.boards import Json
from ops.grafana.card import Card
from ops.grafana.drawings import draw_panel

WIDTH, MARGIN, GAP = 1600, 14, 8
ROW = 34
"""Height of a grid row, as wide as Grafana's at this width, in pixels."""
COLUMNS = 24
BANNER = 54
DPI = 100
PAPER, CARD, EDGE, INK, FAINT = "#F4F5F5", "#FFFFFF", "#DCDEE0", "#24292E", "#6E7680"
NOTE = "rendered with matplotlib from Prometheus answers; not a Grafana screenshot"


def draw_board(board: Json, span: Span, path: Path) -> None:
    """Ask what the dashboard asks, and write the picture as PNG."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    height = BANNER + bottom * ROW + MARGIN
    runs = _runs(span)
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 8, "text.color": INK, "axes.unicode_minus": False}):
        figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
        page = Card(figure, 0, 0, WIDTH, height)
        sheet = page.axes()
        sheet.set(xlim=(0, WIDTH), ylim=(height, 0))
        sheet.text(MARGIN, 26, board["title"], fontsize=15, weight="bold", va="center")
        sheet.text(WIDTH - MARGIN, 18, NOTE, fontsize=9, color="#B3261E", ha="right", va="center")
        what = f"the last {span.seconds:.0f} s of {runs}"
        sheet.text(WIDTH - MARGIN, 36, what, color=FAINT, ha="right", va="center")
        for panel in board["panels"]:
            card = _place(page, panel["gridPos"])
            if panel["type"] == "row":
                _heading(sheet, card, panel, runs)
            else:
                _frame(sheet, card, panel)
                draw_panel(panel, span, card.within(10, 30, 10, 8))
        written = io.BytesIO()
        figure.savefig(written, format="png", facecolor=PAPER)
    Image.open(written).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _runs(span: Span) -> str:
    names = sorted({series.labels.get("run", "") for series in at_an_instant('diptych_run_info{run=~"$run"}', span)})
    return ", ".join(names) or "no run"


def _place(page: Card, grid: Json) -> Card:
    column = (WIDTH - 2 * MARGIN + GAP) / COLUMNS
    left, top = MARGIN + grid["x"] * column, BANNER + grid["y"] * ROW
    return Card(page.figure, left, top, grid["w"] * column - GAP, grid["h"] * ROW - GAP)


def _heading(sheet: Axes, card: Card, panel: Json, runs: str) -> None:
    title = panel["title"].replace("$run", runs)
    mark, more = ("▸", f"   ({len(panel['panels'])} panels, collapsed)") if panel["collapsed"] else ("▾", "")
    middle = card.top + card.height / 2
    sheet.text(card.left + 2, middle, f"{mark} {title}{more}", fontsize=11, weight="bold", va="center")


def _frame(sheet: Axes, card: Card, panel: Json) -> None:
    style = "round,pad=0,rounding_size=3"
    shape = FancyBboxPatch((card.left, card.top), card.width, card.height, boxstyle=style, fc=CARD, ec=EDGE, lw=0.8)
    sheet.add_patch(shape)
    sheet.text(card.left + 10, card.top + 15, panel["title"], fontsize=9.5, weight="bold", va="center")
