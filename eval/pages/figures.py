"""Figures for a page: matplotlib's SVG made fit to stand inside HTML, and small images as data URIs.

Text stays text, in the page's own font. Ink and paper are the page's, so that a figure reads on a light and on a dark
one: matplotlib draws in two colours that stand for them. Ids are kept only where something refers to them, and bear the
figure's name, since all figures share one document.
"""

import base64
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

Pixels = npt.NDArray[np.uint8]
_INK, _PAPER = "#010203", "#fdfcfb"
COLOURS = ("#2f7fd1", "#c8641b", "#2b8a57", "#9a5fc4", "#c9415f", "#1f8a9e", "#8a7a1c", "#94694a", "#bb5aa0", "#6470d6")
"""At least 3:1 against white and against near-black; dash and marker tell those apart whose colours look alike."""
DASHES = ("", "7 3", "2 2", "8 2 2 2", "12 3", "1 3", "8 2 2 2 2 2", "4 4")
"""Of SVG's stroke-dasharray, in the order of the runs."""
MARKERS = dict(zip("os^Dv*PX<>", "●■▲◆▼★✚✖◀▶", strict=True))
"""matplotlib's name of a marker, and the character that looks like it."""
_TILE = 96
_RASTER_DPI = 144
_HALF_LETTER, _WORD_HEIGHT = 0.0095, 0.042
"""As shares of the sides of a picture of points."""

page_style = mpl.rc_context(
    {
        "svg.fonttype": "none",
        "font.size": 9,
        "text.color": _INK,
        "text.parse_math": False,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "axes.facecolor": "none",
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": _INK,
        "grid.alpha": 0.14,
        "grid.linewidth": 0.6,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
    }
)
"""Decorates a function that draws: labels and ticks take their colours when they are made."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure and its words."""

    svg: Markup
    caption: str


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one set of axes; sides in inches. For functions in `page_style`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def dash_pattern(number: int) -> tuple[float, tuple[float, ...] | None]:
    """Matplotlib's line style for a run."""
    return 0, tuple(map(float, DASHES[number].split())) or None


def plain_logarithmic(axis: Axis) -> None:
    """Powers of ten and what lies between as plain numbers: text is not read as mathematics here."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def label_points(axes: Axes, places: npt.NDArray[np.float64], words: Sequence[str]) -> None:
    """Write words over a picture, each with a rim of paper around it, and none on top of another.

    Args:
        axes: drawn already, so that their limits are known.
        places: (N, 2), in the picture's units.
        words: N.
    """
    low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
    taken: list[tuple[float, float, float]] = []  # centre and half the width, as shares of the axes' sides
    for i in np.argsort(places[:, 1], kind="stable").tolist():
        x, y = ((places[i] - low) / (high - low)).tolist()
        half = _HALF_LETTER * (len(words[i]) + 1)
        while any(abs(x - left) < half + other and abs(y - top) < _WORD_HEIGHT for left, top, other in taken):
            y += _WORD_HEIGHT / 4
        taken.append((x, y, half))
        axes.text(
            x,
            y,
            words[i],
            transform=axes.transAxes,
            ha="center",
            va="center",
            fontweight="bold",
            color=_INK,
            path_effects=[withStroke(linewidth=2.5, foreground=_PAPER)],
        )


def inline_svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an <svg> element.

    Args:
        figure: made by `new_axes`.
        name: letters, digits and hyphens; of this figure alone.
        label: what there is to see, for those who cannot.
    """
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page's font may have it
        figure.savefig(
            file,
            format="svg",
            dpi=_RASTER_DPI,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = text.replace(_INK, "currentColor").replace(_PAPER, "var(--paper)")
    text = _rename_ids(text, name)
    width, height = figure.get_size_inches() * 72
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" aria-label="{Markup.escape(label)}">'
    )
    return Markup(opening + text[text.index(">") + 1 :])  # noqa: S704  # matplotlib escapes what it writes


def _rename_ids(svg: str, name: str) -> str:
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)


def image_uri(pixels: Pixels, *, most: int = _TILE) -> str:
    """A small picture as a data URI: (H, W, 3). PNG, or JPEG where it had to be shrunk to `most` pixels a side."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    if max(image.size) > most:
        image.thumbnail((most, most), Image.Resampling.LANCZOS)
        image.save(file, "JPEG", quality=88)
        kind = "jpeg"
    else:
        image.save(file, "PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
