"""Sheets of single operations over their strengths, and a sheet of all of them on one image."""

from dataclasses import replace

import numpy as np
from PIL import Image

from ops.preview_images import Images, host_pixels
from ops.preview_layout import (
    GAP,
    GROUP_GAP,
    HEADING,
    LABEL_WIDTH,
    LINE,
    MARGIN,
    Pixels,
    Sheet,
    as_tile,
    tile_side,
    wrapped,
)
from ops.preview_operations import OperationRange, Strength, neutral_draws, with_strength
from pipelines.augment import TwoViews
from pipelines.config import ViewsConfig
from pipelines.plan import plan_views

_LEAST_WIDTH = 560
_TITLE = 26


def views_over(config: ViewsConfig, images: Images, operation: OperationRange) -> Pixels:
    """The images with one operation done and all others left out: (strengths, N, s, s, 3)."""
    return np.stack([views_at(config, images, strength) for strength in operation.strengths])


def views_at(config: ViewsConfig, images: Images, strength: Strength) -> Pixels:
    """(N, s, s, 3) by the views' own code. Cut from canvases in any case; not compiled, which would take longer."""
    config = replace(config, crop="canvas", compile=False)
    count = len(images.ids)
    draws = with_strength(neutral_draws(count), strength)
    views = TwoViews(config)(images.canvas, plan_views(config, draws, images.canvas.shape[-1]))
    return host_pixels(views[:count])


def operation_sheet(config: ViewsConfig, images: Images, operation: OperationRange, views: Pixels) -> Image.Image:
    """A row per image, a column per strength.

    Args:
        config: of the views.
        images: N of them.
        operation: what the views show.
        views: (strengths, N, s, s, 3).
    """
    tile = tile_side(views.shape[2])
    first = MARGIN + LABEL_WIDTH
    width = max(_LEAST_WIDTH, first + len(views) * (tile + GAP) - GAP + MARGIN)
    lines = wrapped(described(config, operation), width - 2 * MARGIN)
    top = MARGIN + _TITLE + len(lines) * LINE + GROUP_GAP
    sheet = Sheet(width, top + HEADING + len(images.ids) * (tile + GAP) - GAP + MARGIN)
    sheet.title((MARGIN, MARGIN - 4), operation.name)
    for number, line in enumerate(lines):
        sheet.small_text((MARGIN, MARGIN + _TITLE + number * LINE), line)
    for i in range(len(images.ids)):
        below = top + HEADING + i * (tile + GAP)
        sheet.text((MARGIN, below), images.titles[i], LABEL_WIDTH - GAP)
        for number, line in enumerate(images.details(i)):
            sheet.small_text((MARGIN, below + 20 + number * LINE), line)
    for column, strength in enumerate(operation.strengths):
        _draw_column(sheet, strength, views[column], (first + column * (tile + GAP), top), tile)
    return sheet.image


def all_operations(
    config: ViewsConfig, images: Images, operations: list[OperationRange], views: list[Pixels]
) -> Image.Image:
    """All operations on the first image, in the order in which they are applied; short ones share a row.

    Args:
        config: of the views.
        images: the first of them is shown.
        operations: what the views show.
        views: of each operation (strengths, N, s, s, 3).
    """
    tile = tile_side(views[0].shape[2])
    rows = _fill_rows(operations)
    cells = max(sum(_cells(operation) for operation in row) for row in rows)
    row_height = HEADING + tile + GROUP_GAP
    heading = f"Each operation alone on one image: {images.titles[0]}, {', '.join(images.details(0))}"
    sheet = Sheet(2 * MARGIN + cells * (tile + GAP) - GAP, MARGIN + HEADING + len(rows) * row_height)
    sheet.small_text((MARGIN, MARGIN - 4), heading)
    shown = dict(zip((operation.name for operation in operations), views, strict=True))
    for number, row in enumerate(rows):
        left, top = MARGIN, MARGIN + HEADING - GROUP_GAP + number * row_height
        for operation in row:
            inset = GROUP_GAP - GAP if left > MARGIN else 0  # away from the tiles of the operation before
            sheet.text((left + inset, top + HEADING), operation.name, tile - inset)
            for i, line in enumerate(_brief(config, operation, tile - inset)):
                sheet.small_text((left + inset, top + HEADING + 20 + i * LINE), line)
            for column, strength in enumerate(operation.strengths, start=1):
                place = (left + column * (tile + GAP), top)
                _draw_column(sheet, strength, shown[operation.name][column - 1, :1], place, tile)
            left += _cells(operation) * (tile + GAP)
    return sheet.image


def described(config: ViewsConfig, operation: OperationRange) -> str:
    """What the numbers are, how often the operation is drawn, and for whom."""
    sentences = [f"Columns: {operation.unit}."] if operation.unit else []
    drawn = "Part of the jitter, which is drawn" if operation.part_of == "jitter" else "Drawn"
    whom = "the first view only" if operation.part_of in config.first_view_only else "each view"
    unused = "" if operation.probability else ": this configuration never uses it"
    sentences.append(f"{drawn} with probability {operation.probability:.3g} for {whom}{unused}.")
    if operation.part_of == "crop":
        sentences.append("A crop that would stick out is shrunk until it fits.")
        sentences += ["Here cut from the canvas, in training from the original."] if config.crop == "source" else []
    return " ".join(sentences)


def _brief(config: ViewsConfig, operation: OperationRange, width: int) -> list[str]:
    only = ["view 1 only"] if operation.part_of in config.first_view_only else []
    return [*wrapped(operation.unit, width), f"probability {operation.probability:.3g}", *only]


def _draw_column(sheet: Sheet, strength: Strength, views: Pixels, place: tuple[int, int], tile: int) -> None:
    left, top = place
    sheet.text((left, top), strength.label, tile)
    sheet.small_text((left, top + 17), strength.note)
    for i, view in enumerate(views):
        sheet.paste(as_tile(view, tile), (left, top + HEADING + i * (tile + GAP)))


def _fill_rows(operations: list[OperationRange]) -> list[list[OperationRange]]:
    """Start a row when the next operation would make it longer than the longest."""
    longest = max(map(_cells, operations))
    rows: list[list[OperationRange]] = [[]]
    for operation in operations:
        if sum(map(_cells, rows[-1])) + _cells(operation) > longest:
            rows.append([])
        rows[-1].append(operation)
    return rows


def _cells(operation: OperationRange) -> int:
    """Tiles, and one for the label."""
    return 1 + len(operation.strengths)
