"""What the sheets of `ops.preview` have in common: colours, tiles, text, and the writing of files."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from train.errors import RunError

Pixels = npt.NDArray[np.uint8]

GAP, GROUP_GAP, MARGIN = 4, 14, 16
LABEL_WIDTH = 104
LINE = 15
"""From one line of text to the next."""
HEADING = 38
"""Height of two lines above the tiles."""
PAPER, INK, FAINT, _FRAME = "#ffffff", "#222222", "#707070", "#d8d8d8"
_TILE_MIN, _TILE_MAX = 96, 160
_LARGE, _MEDIUM, _SMALL = 17, 13, 11


class Sheet:
    """A blank picture, and what is put on it."""

    def __init__(self, width: int, height: int) -> None:
        """Sides in pixels."""
        self.image = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def title(self, place: tuple[int, int], text: str) -> None:
        """One large line."""
        self._draw.text(place, text, fill=INK, font=ImageFont.load_default(_LARGE))

    def text(self, place: tuple[int, int], text: str, width: int) -> None:
        """One line, shortened to a width."""
        font = ImageFont.load_default(_MEDIUM)
        while text and self._draw.textlength(text, font=font) > width:
            text = text.rstrip("…")[:-1] + "…"
        self._draw.text(place, text, fill=INK, font=font)

    def small_text(self, place: tuple[int, int], text: str, colour: str = FAINT, anchor: str = "la") -> None:
        """One line."""
        self._draw.text(place, text, fill=colour, font=ImageFont.load_default(_SMALL), anchor=anchor)

    def paste(self, tile: Image.Image, place: tuple[int, int]) -> None:
        """Put a picture at a place, left and top, in a faint frame: some views are white."""
        (left, top), (width, height) = place, tile.size
        self._draw.rectangle((left - 1, top - 1, left + width, top + height), outline=_FRAME)
        self.image.paste(tile, place)


def wrapped(text: str, width: int) -> list[str]:
    """Break a text into small lines of at most a width in pixels, between words."""
    font = ImageFont.load_default(_SMALL)
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def tile_side(view_side: int) -> int:
    """Of a view's tile: a whole multiple of a small view's side; a large view is shrunk."""
    if view_side >= _TILE_MIN:
        return min(view_side, _TILE_MAX)
    return view_side * -(-_TILE_MIN // view_side)


def as_tile(pixels: Pixels, side: int) -> Image.Image:
    """A square picture at a tile's size; pixels of small images stay visible as squares."""
    enlarging = len(pixels) <= side
    resampling = Image.Resampling.NEAREST if enlarging else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize((side, side), resampling)


def write_png(sheet: Image.Image, path: Path) -> None:
    """Write the file whole or not at all; its directory is made.

    Raises:
        RunError: the system refuses.
    """
    if path.name in {"", ".."}:
        raise RunError(f"output = {path}: names no file")
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            sheet.save(partial, "PNG", optimize=True)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"output = {path}: cannot be written ({error.strerror})") from None
