"""What training looked at: the first images of epoch 0, their crops and both views, drawn as training drew them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from eval.errors import EvaluationError
from eval.pages.config import ReportConfig
from eval.pages.figures import COLOURS, Pixels, image_uri
from eval.pages.run_files import Run
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex, open_split

if TYPE_CHECKING:
    from torch import Tensor

_MOST_IMAGES = 8
_BOXED = 96
"""Side of an image on which boxes are drawn."""


@dataclass(frozen=True, kw_only=True)
class ViewedImage:
    """An image and its views."""

    title: str
    """Of its class, and which sample it is."""
    whole: str
    """Data URI: the image with the frames of both crops."""
    views: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class ViewsSheet:
    """Of the runs whose views are drawn alike."""

    runs: tuple[str, ...]
    rows: tuple[ViewedImage, ...]
    side: int
    """Of a view in pixels, before it was shrunk."""
    note: str


def views_sheets(runs: Sequence[Run], config: ReportConfig) -> tuple[list[ViewsSheet], list[str]]:
    """A sheet for all runs that see the same, and a line for each whose data is not there."""
    found = [((run.config.views, run.config.seed, run.config.data.canvas, run.config.data.dir), run) for run in runs]
    sheets, missing = [], []
    for key in dict.fromkeys(key for key, _ in found):
        same = [run for its_key, run in found if its_key == key]
        names = ", ".join(run.name for run in same)
        try:
            sheets.append(_sheet(same, config.data.dir or same[0].config.data.dir, min(config.images, _MOST_IMAGES)))
        except (EvaluationError, DataError) as error:
            missing.append(f"{names}: {error}")
    return sheets, missing


def _sheet(runs: Sequence[Run], directory: str, most: int) -> ViewsSheet:
    import torch

    from pipelines.augment import TwoViews
    from pipelines.loader import Batch, Share, training_batches

    run = runs[0]
    if not directory:
        raise EvaluationError("the run does not say which data it was trained on; name it with --data.dir")
    split = open_split(directory, "train")
    trained_on = run.encoder.get("data_fingerprint", split.manifest.fingerprint)
    if trained_on != split.manifest.fingerprint:
        raise EvaluationError(f"{directory}: not the data that the run was trained on")
    config, data = run.config.views, replace(run.config.data, dir=directory, cache="none")
    share = Share(global_batch=min(most, len(split)), seed=run.config.seed, last_step=1)

    def first_batch(crop: Literal["canvas", "source"]) -> Batch:
        (batch,) = training_batches(split, data, replace(config, crop=crop), share, torch.device("cpu"))
        return batch

    batch = first_batch(config.crop)
    views = _bytes(TwoViews(replace(config, compile=False))(batch.canvas, batch.plan))
    whole = (batch if config.crop == "canvas" else first_batch("canvas")).canvas.permute(0, 2, 3, 1).numpy()
    ids, count = batch.sample_id.tolist(), len(batch.sample_id)
    return ViewsSheet(
        runs=tuple(run.name for run in runs),
        rows=tuple(
            ViewedImage(
                title=_title(split, sample_id),
                whole=image_uri(_with_boxes(whole[i], batch.draws.box[[i, i + count]])),
                views=(image_uri(views[i]), image_uri(views[i + count])),
            )
            for i, sample_id in enumerate(ids)
        ),
        side=config.size,
        note=f"View 2 is spared {', '.join(config.first_view_only)}." if config.first_view_only else "",
    )


def _title(split: SplitIndex, sample_id: int) -> str:
    label = int(split.samples[sample_id]["label"])
    name = split.manifest.classes[label] if label >= 0 else "no label"
    return f"{name}, sample {sample_id}"


def _bytes(views: "Tensor") -> Pixels:
    """(N, 3, s, s) in [0, 1] to (N, s, s, 3)."""
    pixels: Pixels = (views * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels


def _with_boxes(canvas: Pixels, boxes: npt.NDArray[np.float64]) -> Pixels:
    """The image at a size that frames can be seen on, with a frame in each view's colour."""
    image = Image.fromarray(canvas)
    resampling = Image.Resampling.NEAREST if len(canvas) <= _BOXED else Image.Resampling.LANCZOS
    image = image.resize((_BOXED, _BOXED), resampling)
    draw = ImageDraw.Draw(image)
    for (top, left, height, width), colour in zip(boxes * _BOXED, COLOURS, strict=False):
        draw.rectangle((left, top, left + width - 1, top + height - 1), outline=colour, width=2)
    return np.asarray(image)
