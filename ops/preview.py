"""Draw what training will see, before it costs anything: a contact sheet of images, crops and views.

    python -m ops.preview --config train/configs/cifar10.yaml --data.dir DIR --output sheet.png

The loader, the draws and the views are those of training. `--help` lists every field; any of a run's may be given.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jsonargparse.typing import PositiveInt
from PIL import Image, ImageDraw, ImageFont

from pipelines.errors import DataError
from pipelines.manifest import SplitIndex, open_split
from train.arguments import parse
from train.config import PretrainConfig
from train.distributed import fail
from train.errors import RunError

Pixels = npt.NDArray[np.uint8]

_TILE_MIN, _TILE_MAX = 96, 160
_GAP, _GROUP_GAP, _MARGIN, _CAPTION, _HEADING = 4, 14, 16, 16, 38
_LABEL_WIDTH = 104
_PAPER, _INK, _FAINT = "#ffffff", "#222222", "#808080"
_VIEW_COLOURS = ("#e0672b", "#2673b8")
_FONT, _SMALL_FONT = 13, 11


@dataclass(frozen=True, kw_only=True)
class PreviewConfig(PretrainConfig):
    """A contact sheet of a run's views; the run's own fields may be given, too."""

    output: str = "preview.png"
    """PNG file to write."""
    images: PositiveInt = 8
    """Rows: the first images of epoch 0."""
    epochs: PositiveInt = 3
    """Pairs of views per image, one for each epoch from 0."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image and what becomes of it."""

    title: str
    """Name of its class."""
    details: str
    canvas: Pixels
    """(S, S, 3)."""
    boxes: npt.NDArray[np.float32]
    """(2, 4) of epoch 0's views: top, left, height, width, as shares of the image."""
    mirrored: tuple[bool, bool]
    """Whether each of these is."""
    views: Pixels
    """(epochs, 2, s, s, 3)."""


def main() -> None:
    """Refuse what is wrong before torch is imported, then draw."""
    try:
        config = parse(PreviewConfig, sys.argv[1:], prog="preview")
        split = open_data(config)
        sheet = draw_sheet(make_rows(config, split))
        write_png(sheet, Path(config.output))
    except (RunError, DataError) as error:
        fail("preview", error, show=True)
    print(f"{config.images} images of {split.manifest.name}, {config.epochs} epochs: {config.output}")


def open_data(config: PreviewConfig) -> SplitIndex:
    """Open the train split.

    Raises:
        RunError: no data set was named, or it has fewer images than were asked for.
        DataError: the directory does not hold what its manifest says.
    """
    if not config.data.dir:
        raise RunError("data.dir: no data set named; build one with `python -m pipelines.build_shards`")
    split = open_split(config.data.dir, "train")
    if len(split) < config.images:
        raise RunError(f"images = {config.images}: split train has {len(split)}")
    return split


def make_rows(config: PreviewConfig, split: SplitIndex) -> list[Row]:
    """Take the first images of epoch 0 and make their views in every epoch."""
    import torch

    from pipelines.augment import TwoViews
    from pipelines.draws import draw_views
    from pipelines.loader import Share, training_batches

    share = Share(global_batch=config.images, seed=config.seed, last_step=1)
    (batch,) = training_batches(split, config.data, config.views, share, torch.device("cpu"))
    ids = batch.sample_id.numpy()
    records = split.samples[ids]
    height, width = records["height"].astype(np.int64), records["width"].astype(np.int64)
    draws = [batch.draws] + [
        draw_views(config.views, ids, height, width, config.seed, epoch) for epoch in range(1, config.epochs)
    ]
    views = torch.stack([TwoViews(config.views)(batch.canvas, of_epoch) for of_epoch in draws])
    pixels = (views * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()  # (epochs, 2B, s, s, 3)
    boxes, flips = batch.draws.box.numpy(), batch.draws.flip.bool().tolist()
    count, classes = len(ids), split.manifest.classes
    return [
        Row(
            title=classes[label] if label >= 0 else "no label",
            details=f"sample {ids[i]}\n{width[i]} x {height[i]} px",
            canvas=batch.canvas[i].permute(1, 2, 0).numpy(),
            boxes=boxes[[i, i + count]],
            mirrored=(flips[i], flips[i + count]),
            views=pixels[:, [i, i + count]],
        )
        for i, label in enumerate(batch.label.tolist())
    ]


def draw_sheet(rows: list[Row]) -> Image.Image:
    """Lay the rows out: label, image, image with the crops of epoch 0, then a pair of views per epoch."""
    epochs = len(rows[0].views)
    tile = _tile_side(rows[0].views.shape[2])
    pair = 2 * tile + _GAP
    first_view = _MARGIN + _LABEL_WIDTH + 2 * (tile + _GROUP_GAP)
    row_height = tile + _CAPTION + _GAP
    width = first_view + epochs * pair + (epochs - 1) * _GROUP_GAP + _MARGIN
    sheet = Image.new("RGB", (width, _MARGIN + _HEADING + len(rows) * row_height), _PAPER)
    draw = ImageDraw.Draw(sheet)

    image_left = _MARGIN + _LABEL_WIDTH
    crops_left = image_left + tile + _GROUP_GAP
    views_left = [first_view + epoch * (pair + _GROUP_GAP) for epoch in range(epochs)]
    _draw_headings(draw, image_left, crops_left, views_left, tile, len(rows[0].canvas))
    for i, row in enumerate(rows):
        top = _MARGIN + _HEADING + i * row_height
        _draw_label(draw, row, top)
        canvas = _enlarge(row.canvas, tile)
        sheet.paste(canvas, (image_left, top))
        sheet.paste(_with_boxes(canvas, row.boxes), (crops_left, top))
        _note_mirrored(draw, row.mirrored, crops_left, top + tile, tile)
        for left, views in zip(views_left, row.views, strict=True):
            for view in range(2):
                sheet.paste(_enlarge(views[view], tile), (left + view * (tile + _GAP), top))
    return sheet


def write_png(sheet: Image.Image, path: Path) -> None:
    """Write the file whole or not at all; its directory is made.

    Raises:
        RunError: the system refuses.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(partial, "PNG")
        partial.replace(path)
    except OSError as error:
        raise RunError(f"output = {path}: cannot be written ({error.strerror})") from None


def _tile_side(view_side: int) -> int:
    """A whole multiple of a small view's side; a large view is shrunk."""
    if view_side >= _TILE_MIN:
        return min(view_side, _TILE_MAX)
    return view_side * -(-_TILE_MIN // view_side)


def _enlarge(pixels: Pixels, tile: int) -> Image.Image:
    """To a tile; pixels of small images stay visible as squares."""
    enlarging = len(pixels) <= tile
    resampling = Image.Resampling.NEAREST if enlarging else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize((tile, tile), resampling)


def _with_boxes(canvas: Image.Image, boxes: npt.NDArray[np.float32]) -> Image.Image:
    """The image, paled, with a frame in each view's colour."""
    boxed = Image.blend(canvas, Image.new("RGB", canvas.size, _PAPER), 0.25)
    draw = ImageDraw.Draw(boxed)
    for (top, left, height, width), colour in zip(boxes * canvas.width, _VIEW_COLOURS, strict=True):
        draw.rectangle((left, top, left + width - 1, top + height - 1), outline=colour, width=2)
    return boxed


def _draw_headings(
    draw: ImageDraw.ImageDraw, image_left: int, crops_left: int, views_left: list[int], tile: int, canvas_side: int
) -> None:
    upper, lower = _MARGIN, _MARGIN + 17
    font, small_font = ImageFont.load_default(_FONT), ImageFont.load_default(_SMALL_FONT)
    draw.text((image_left, upper), "image", fill=_INK, font=font)
    draw.text((image_left, lower), f"canvas {canvas_side} px", fill=_FAINT, font=small_font)
    draw.text((crops_left, upper), "crops", fill=_INK, font=font)
    draw.text((crops_left, lower), "of epoch 0", fill=_FAINT, font=small_font)
    for epoch, left in enumerate(views_left):
        draw.text((left, upper), f"epoch {epoch}", fill=_INK, font=font)
        for view, colour in enumerate(_VIEW_COLOURS):
            place = (left + view * (tile + _GAP), lower)
            draw.text(place, f"view {view + 1}", fill=colour, font=small_font)


def _draw_label(draw: ImageDraw.ImageDraw, row: Row, top: int) -> None:
    font = ImageFont.load_default(_FONT)
    title = row.title
    while draw.textlength(title, font=font) > _LABEL_WIDTH - _GAP:
        title = title.rstrip("…")[:-1] + "…"
    draw.text((_MARGIN, top), title, fill=_INK, font=font)
    draw.text((_MARGIN, top + 20), row.details, fill=_FAINT, font=ImageFont.load_default(_SMALL_FONT))


def _note_mirrored(draw: ImageDraw.ImageDraw, mirrored: tuple[bool, bool], left: int, top: int, tile: int) -> None:
    """Under the crops, in the view's colour: view 1's note on the left, view 2's on the right."""
    font = ImageFont.load_default(_SMALL_FONT)
    for place, anchor, is_mirrored, colour in zip(
        (left, left + tile), ("la", "ra"), mirrored, _VIEW_COLOURS, strict=True
    ):
        if is_mirrored:
            draw.text((place, top + 1), "mirrored", fill=colour, font=font, anchor=anchor)


if __name__ == "__main__":
    main()
