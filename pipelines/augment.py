"""Two random views of each image (SimCLR, Chen et al. 2020, appendix A): canvas and plan in, pixels out.

crop + resize + flip -> [rotation] -> colour jitter in the drawn order -> grayscale -> blur -> [sobel, noise, cutout]

Nothing is random here and nothing asks the device for a value: the draws come from the host.
"""

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from pipelines.colour import change_all_colours, change_colours_
from pipelines.config import ViewsConfig
from pipelines.crop import crop_axes, crop_by_matrices, crop_resize_flip
from pipelines.draws import Ids
from pipelines.filters import add_noise_, blur_, cut_out_, rotate_, sobel_
from pipelines.kornia_engine import kornia_blur_, kornia_colours_, kornia_crop
from pipelines.plan import Plan

_SMALL_VIEW = 64
_EVAL_SHARE = 0.875


class TwoViews:
    """Makes the two views of a batch; a pure function of canvas and plan."""

    def __init__(
        self,
        config: ViewsConfig,
        dtype: torch.dtype = torch.float32,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """Views computed in float32 are given out in this type and memory format."""
        self._config, self._dtype, self._layout = config, dtype, layout
        self._paper = config.reference == "paper"
        self._change_all_colours = torch.compile(change_all_colours) if config.compile else None

    @torch.no_grad()
    def __call__(self, canvas: Tensor, plan: Plan) -> Tensor:
        """Apply the draws.

        Args:
            canvas: (B, 3, S, S) uint8, each image resized to a square; where crops were cut from the source,
                (2B, 3, s, s) uint8, row by row those of the plan.
            plan: of these B images, on the canvas's device.

        Returns:
            (2B, 3, s, s) in [0, 1]; rows i and i+B are the two views of image i. (B, 3, s, s) for a plan of B rows.
        """
        with torch.autocast(canvas.device.type, enabled=False), full_float32():
            views = self._crop(canvas, plan)
            rotate_(views, plan)
            views = self._change_colours(views, plan)
            blur = kornia_blur_ if self._config.engine == "kornia" else blur_
            blur(views, plan, zero_border=self._paper)
            sobel_(views, plan)
            add_noise_(views, plan)
            cut_out_(views, plan, side=self._config.cutout_side)
            return views.to(self._dtype, memory_format=self._layout)

    def _crop(self, canvas: Tensor, plan: Plan) -> Tensor:
        size = self._config.size
        if self._config.crop == "source":
            cut = canvas.to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)
            return torch.where(plan.column("flip")[:, :, None, None] > 0, cut.flip(3), cut)
        axes = plan.column("axes").unflatten(1, (2, -1))
        if self._config.interpolation == "bicubic":
            return crop_by_matrices(canvas, axes, size, "bicubic")
        cut_views = kornia_crop if self._config.engine == "kornia" else crop_resize_flip
        return cut_views(canvas, axes, size, plan.rows["shrink"])

    def _change_colours(self, views: Tensor, plan: Plan) -> Tensor:
        if self._change_all_colours is not None:
            return self._change_all_colours(views, plan.numbers, paper=self._paper)
        change = kornia_colours_ if self._config.engine == "kornia" else change_colours_
        change(views, plan, paper=self._paper)
        return views


class EvalView:
    """The fixed view of evaluation: a central square of the original image."""

    def __init__(self, size: int) -> None:
        """A view of `size` pixels a side shows 0.875 of the image's shorter side (224 of 256), small ones all of it."""
        self._size = size
        self._share = _EVAL_SHARE if size > _SMALL_VIEW else 1.0

    @torch.no_grad()
    def __call__(self, canvas: Tensor, height: Ids, width: Ids) -> Tensor:
        """Cut the square.

        Args:
            canvas: (B, 3, S, S) uint8.
            height: (B,) of the original images in pixels.
            width: (B,) likewise.

        Returns:
            (B, 3, s, s) float32 in [0, 1].
        """
        side = self._share * np.minimum(height, width)
        box = np.stack([(1 - side / height) / 2, (1 - side / width) / 2, side / height, side / width], axis=1)
        axes = crop_axes(box, np.zeros(len(box), dtype=bool), self._size, canvas.shape[-1])
        with torch.autocast(canvas.device.type, enabled=False), full_float32():
            on_device = torch.from_numpy(axes).to(canvas.device, torch.float32)
            return crop_by_matrices(canvas, on_device, self._size, "bilinear")


@contextmanager
def full_float32() -> Generator[None, None, None]:
    """No TF32 in the matrix products and convolutions inside, whatever the rest of the run allows itself."""
    matmul, conv = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, conv
