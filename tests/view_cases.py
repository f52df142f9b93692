"""Canvases, draws and plans that tests of the views share."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.augment import TwoViews
from pipelines.config import ViewsConfig
from pipelines.draws import Draws, draw_views
from pipelines.plan import Plan, plan_views

STUDY: dict[str, Any] = {f"{name}_probability": 0.4 for name in ("rotation", "sobel", "noise", "cutout")}
NOTHING: dict[str, Any] = {f"{name}_probability": 0.0 for name in ("flip", "jitter", "grayscale", "blur")} | {
    "crop_area_min": 1.0
}
"""Crops of area 1 and aspect other than 1 do not fit a square image, so that the whole image is the only crop."""


def canvases(images: int = 8, side: int = 32, seed: int = 0) -> Tensor:
    """(N, 3, S, S) uint8, channels last as the loader's: smooth colours, and in the first some pure and gray ones."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(images, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear").mul_(255).round_()
    corner = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (0, 255, 255)]
    smooth[0, :, 0, : len(corner)] = torch.tensor(corner, dtype=torch.float32).T
    return smooth.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def drawn(
    config: ViewsConfig, ids: npt.NDArray[np.int64], *, side: tuple[int, int] = (375, 500), epoch: int = 0
) -> Draws:
    """Draws of images of one size, height and width."""
    ones = np.ones_like(ids)
    return draw_views(config, ids, side[0] * ones, side[1] * ones, seed=0, epoch=epoch)


def planned(config: ViewsConfig, images: Tensor, **options: Any) -> Plan:
    """The plan of canvases, whose ids are their places."""
    return plan_views(config, drawn(config, np.arange(len(images)), **options), images.shape[-1])


def views_of(config: ViewsConfig, images: Tensor, **options: Any) -> Tensor:
    """Both views of canvases."""
    return TwoViews(config)(images, planned(config, images, **options))
