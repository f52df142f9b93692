"""The images of a preview: the first of epoch 0, as training reads them."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ops.preview_layout import Pixels
from pipelines.config import DataConfig, ViewsConfig
from pipelines.loader import Batch, Share, training_batches
from pipelines.manifest import SplitIndex

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Images:
    """N images, whole."""

    ids: Ints
    """(N,) sample ids."""
    titles: tuple[str, ...]
    """Names of their classes."""
    height: Ints
    """(N,) of the originals in pixels."""
    width: Ints
    """(N,) likewise."""
    canvas: Tensor
    """(N, 3, S, S) uint8."""

    def details(self, i: int) -> tuple[str, ...]:
        """Lines for below the title."""
        return f"sample {self.ids[i]}", f"{self.width[i]} x {self.height[i]} px"


def first_batch(split: SplitIndex, data: DataConfig, views: ViewsConfig, count: int, seed: int) -> Batch:
    """The first `count` images of epoch 0, on the host."""
    share = Share(global_batch=count, seed=seed, last_step=1)
    (batch,) = training_batches(split, data, views, share, torch.device("cpu"))
    return batch


def whole_images(split: SplitIndex, data: DataConfig, views: ViewsConfig, count: int, seed: int) -> Images:
    """The same images on canvases, wherever the views' crops are cut from."""
    batch = first_batch(split, data, replace(views, crop="canvas"), count, seed)
    ids, classes = batch.sample_id.numpy(), split.manifest.classes
    records = split.samples[ids]
    return Images(
        ids=ids,
        titles=tuple(classes[label] if label >= 0 else "no label" for label in batch.label.tolist()),
        height=records["height"].astype(np.int64),
        width=records["width"].astype(np.int64),
        canvas=batch.canvas,
    )


def host_pixels(views: Tensor) -> Pixels:
    """(N, 3, s, s) in [0, 1] to (N, s, s, 3) bytes."""
    pixels: Pixels = (views * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pixels


def canvas_pixels(canvas: Tensor) -> Pixels:
    """(N, 3, S, S) to (N, S, S, 3)."""
    pixels: Pixels = canvas.permute(0, 2, 3, 1).numpy()
    return pixels
