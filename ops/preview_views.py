"""The contact sheet: images, the crops that epoch 0 takes of them, and their pairs of views in some epochs."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ops.preview_images import Images, canvas_pixels, first_batch, host_pixels
from ops.preview_layout import (
    GAP,
    GROUP_GAP,
    HEADING,
    LABEL_WIDTH,
    LINE,
    MARGIN,
    PAPER,
    Pixels,
    Sheet,
    as_tile,
    tile_side,
    wrapped,
)
from pipelines.augment import TwoViews
from pipelines.config import DataConfig, ViewsConfig
from pipelines.draws import draw_views
from pipelines.manifest import SplitIndex
from pipelines.plan import plan_views

_VIEW_COLOURS = ("#d55a1c", "#2673b8")
_CAPTION = 16


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image and what becomes of it."""

    title: str
    """Name of its class."""
    details: tuple[str, ...]
    canvas: Pixels
    """(S, S, 3)."""
    boxes: npt.NDArray[np.float64]
    """(2, 4) of epoch 0's views: top, left, height, width, as shares of the image."""
    mirrored: tuple[bool, bool]
    """Whether each of these is."""
    views: Pixels
    """(epochs, 2, s, s, 3)."""


def make_rows(
    split: SplitIndex, data: DataConfig, views: ViewsConfig, images: Images, *, epochs: int, seed: int
) -> list[Row]:
    """Make the views of every epoch, as training does.

    Where a batch has one order of colour operations, later epochs show those of batches that stand in for the run's:
    there, the images are spread over many.

    Args:
        split: of which data set.
        data: how it is read.
        views: how they are drawn.
        images: the first of epoch 0.
        epochs: how many from 0. Of crops cut while decoding there are only those of epoch 0.
        seed: of the run.
    """
    batch = first_batch(split, data, views, len(images.ids), seed)
    pairs = [TwoViews(views)(batch.canvas, plan_views(views, batch.draws, batch.canvas.shape[-1]))]
    for epoch in range(1, epochs if views.crop == "canvas" else 1):
        draws = draw_views(views, images.ids, images.height, images.width, seed, epoch, step=epoch)
        pairs.append(TwoViews(views)(images.canvas, plan_views(views, draws, images.canvas.shape[-1])))
    pixels = np.stack([host_pixels(pair) for pair in pairs])  # (epochs, 2N, s, s, 3)
    count, canvas, flips = len(images.ids), canvas_pixels(images.canvas), batch.draws.flip.tolist()
    return [
        Row(
            title=images.titles[i],
            details=images.details(i),
            canvas=canvas[i],
            boxes=batch.draws.box[[i, i + count]],
            mirrored=(flips[i], flips[i + count]),
            views=pixels[:, [i, i + count]],
        )
        for i in range(count)
    ]


def contact_sheet(config: ViewsConfig, rows: list[Row]) -> Image.Image:
    """Lay the rows out: label, image, image with the crops of epoch 0, then a pair of views per epoch."""
    epochs = len(rows[0].views)
    tile = tile_side(rows[0].views.shape[2])
    pair = 2 * tile + GAP
    image_left = MARGIN + LABEL_WIDTH
    crops_left = image_left + tile + GROUP_GAP
    views_left = [crops_left + tile + GROUP_GAP + epoch * (pair + GROUP_GAP) for epoch in range(epochs)]
    width = views_left[-1] + pair + MARGIN
    notes = wrapped(_notes(config), width - 2 * MARGIN)
    notes_height = len(notes) * LINE + GROUP_GAP if notes else 0
    first, row_height = MARGIN + notes_height + HEADING, tile + _CAPTION + GAP
    sheet = Sheet(width, first + len(rows) * row_height)

    for number, line in enumerate(notes):
        sheet.small_text((MARGIN, MARGIN + number * LINE), line)
    _draw_headings(sheet, (image_left, crops_left, *views_left), MARGIN + notes_height, tile, len(rows[0].canvas))
    for i, row in enumerate(rows):
        top = first + i * row_height
        sheet.text((MARGIN, top), row.title, LABEL_WIDTH - GAP)
        for number, line in enumerate(row.details):
            sheet.small_text((MARGIN, top + 20 + number * LINE), line)
        canvas = as_tile(row.canvas, tile)
        sheet.paste(canvas, (image_left, top))
        sheet.paste(_with_boxes(canvas, row.boxes), (crops_left, top))
        _note_mirrored(sheet, row.mirrored, crops_left, top + tile, tile)
        for left, views in zip(views_left, row.views, strict=True):
            for view in range(2):
                sheet.paste(as_tile(views[view], tile), (left + view * (tile + GAP), top))
    return sheet.image


def _notes(config: ViewsConfig) -> str:
    notes = []
    if config.first_view_only:
        notes.append(f"View 2 is spared {', '.join(config.first_view_only)} (first_view_only).")
    if config.crop == "source":
        notes.append("Crops are cut while the originals, here on canvases, are decoded; later epochs are not shown.")
    return " ".join(notes)


def _with_boxes(canvas: Image.Image, boxes: npt.NDArray[np.float64]) -> Image.Image:
    """The image, paled, with a frame in each view's colour."""
    boxed = Image.blend(canvas, Image.new("RGB", canvas.size, PAPER), 0.25)
    draw = ImageDraw.Draw(boxed)
    for (top, left, height, width), colour in zip(boxes * canvas.width, _VIEW_COLOURS, strict=True):
        draw.rectangle((left, top, left + width - 1, top + height - 1), outline=colour, width=2)
    return boxed


def _draw_headings(sheet: Sheet, lefts: tuple[int, ...], top: int, tile: int, canvas_side: int) -> None:
    image_left, crops_left, *views_left = lefts
    sheet.text((image_left, top), "image", tile)
    sheet.small_text((image_left, top + 17), f"canvas {canvas_side} px")
    sheet.text((crops_left, top), "crops", tile)
    sheet.small_text((crops_left, top + 17), "of epoch 0")
    for epoch, left in enumerate(views_left):
        sheet.text((left, top), f"epoch {epoch}", tile)
        for view, colour in enumerate(_VIEW_COLOURS):
            sheet.small_text((left + view * (tile + GAP), top + 17), f"view {view + 1}", colour)


def _note_mirrored(sheet: Sheet, mirrored: tuple[bool, bool], left: int, top: int, tile: int) -> None:
    """Under the crops, in the view's colour: view 1's note on the left, view 2's on the right."""
    for place, anchor, is_mirrored, colour in zip(
        (left, left + tile), ("la", "ra"), mirrored, _VIEW_COLOURS, strict=True
    ):
        if is_mirrored:
            sheet.small_text((place, top + 1), "mirrored", colour, anchor)
