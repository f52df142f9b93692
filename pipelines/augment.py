"""Two random views of each image (SimCLR, Chen et al. 2020, appendix A): canvas and draws in, pixels out.

crop + resize + flip -> colour jitter in the drawn order -> grayscale -> blur

Nothing is random here and nothing asks the device for a value: the draws come from the host.
"""

import math

import kornia
import torch
from torch import Tensor

from pipelines.config import ViewsConfig
from pipelines.draws import COLOUR_OPERATIONS, Draws


class TwoViews:
    """Makes the two views of a batch; a pure function of canvas and draws."""

    def __init__(self, config: ViewsConfig) -> None:
        self._size = config.size
        self._kernel = 2 * (config.size // 10 // 2) + 1  # odd: the reference's radius is half of a tenth of the size

    @torch.no_grad()
    def __call__(self, canvas: Tensor, draws: Draws) -> Tensor:
        """Apply the draws.

        Args:
            canvas: (B, 3, S, S) uint8, each image resized to a square.
            draws: of these B images, on the canvas's device.

        Returns:
            (2B, 3, s, s) float32 in [0, 1]; rows i and i+B are the two views of image i.
        """
        with torch.autocast(canvas.device.type, enabled=False):
            views = crop_resize_flip(canvas, draws.box, draws.flip, self._size)
            for rows_by_operation in draws.colour_rows:
                for column, rows in enumerate(rows_by_operation):
                    if len(rows):
                        adjust = _COLOUR[COLOUR_OPERATIONS[column]]
                        views[rows] = adjust(views[rows], draws.factors[rows, column])
            if len(draws.grayscale_rows):
                rows = draws.grayscale_rows
                views[rows] = kornia.color.rgb_to_grayscale(views[rows]).expand(-1, 3, -1, -1)
            if len(draws.blur_rows) and self._kernel > 1:
                rows = draws.blur_rows
                # Not gaussian_blur2d, which reads sigma back to the host to check its sign.
                kernel = kornia.filters.get_gaussian_kernel1d(self._kernel, draws.sigma[rows, None])
                views[rows] = kornia.filters.filter2d_separable(views[rows], kernel, kernel, "reflect")
            return views


def crop_resize_flip(canvas: Tensor, box: Tensor, flip: Tensor, size: int) -> Tensor:
    """Cut boxes from the canvas and resize them, anti-aliased, to a square; mirror where asked.

    Resizing is linear in the pixels and separable, so each view is two small matrix products, into which the crop, the
    filter and the flip are folded. For boxes on whole pixels this is torchvision's `resized_crop(antialias=True)`.

    Args:
        canvas: (B, 3, S, S) uint8.
        box: (V·B, 4) float32: top, left, height, width as shares of the image; row i cuts from image i mod B.
        flip: (V·B,) float32, 1 or 0.
        size: s, side of the result in pixels.

    Returns:
        (V·B, 3, s, s) float32 in [0, 1].
    """
    images, channels, side, _ = canvas.shape
    top, left, height, width = (box * side).unbind(1)
    rows = _resampling_weights(top, height, torch.zeros_like(flip), size, side)
    columns = _resampling_weights(left, width, flip, size, side).transpose(1, 2)
    pixels = canvas.to(torch.float32, memory_format=torch.contiguous_format)  # canvases come channels last
    pixels = pixels.mul_(1 / 255).view(images, channels * side, side)
    views = pixels.new_empty(len(box), channels, size, size)
    for part in range(0, len(box), images):
        block = slice(part, part + images)
        narrowed = torch.bmm(pixels, columns[block]).view(images, channels, side, size)
        for channel in range(channels):
            views[block, channel] = torch.bmm(rows[block], narrowed[:, channel])
    return views


def centre_view(canvas: Tensor, height: Tensor, width: Tensor, size: int, share: float) -> Tensor:
    """The fixed view of evaluation: a central square of the original image.

    Args:
        canvas: (B, 3, S, S) uint8.
        height: (B,) of the original images in pixels.
        width: (B,) likewise.
        size: s, side of the result in pixels.
        share: of the shorter side that the square covers: 0.875 on ImageNet (224 of 256), 1 on small images.

    Returns:
        (B, 3, s, s) float32 in [0, 1].
    """
    side = share * torch.minimum(height, width)
    box = torch.stack([(1 - side / height) / 2, (1 - side / width) / 2, side / height, side / width], dim=1)
    return crop_resize_flip(canvas, box, torch.zeros_like(side), size)


def _resampling_weights(start: Tensor, length: Tensor, flip: Tensor, size: int, side: int) -> Tensor:
    """(N, size, side): how much of each canvas pixel goes into each pixel of the view, along one axis.

    A triangle filter as wide as an output pixel (at least as an input pixel), cut at the box: a canvas pixel counts as
    far as it lies inside.
    """
    position = torch.arange(size, device=start.device, dtype=start.dtype)
    position = torch.lerp(position, position.flip(0), flip[:, None])  # (N, size)
    pixel = torch.arange(side, device=start.device, dtype=start.dtype)
    scale = length / size
    centre = start[:, None] + (position + 0.5) * scale[:, None]
    distance = (pixel + 0.5 - centre[:, :, None]).abs_()
    weights = (1 - distance.div_(scale.clamp(min=1)[:, None, None])).clamp_(min=0)
    inside = torch.minimum(pixel + 1, (start + length)[:, None]) - torch.maximum(pixel, start[:, None])
    weights *= inside.clamp_(0, 1)[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def _shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    shifted: Tensor = kornia.enhance.adjust_hue(images, turns * (2 * math.pi))
    return shifted.clamp_(0, 1)


# The formulas of torchvision's and Kornia's ColorJitter: a blend with black, with the mean luminance or with the
# luminance, each clipped to [0, 1].
_COLOUR = {
    "brightness": kornia.enhance.adjust_brightness_accumulative,
    "contrast": kornia.enhance.adjust_contrast_with_mean_subtraction,
    "saturation": kornia.enhance.adjust_saturation_with_gray_subtraction,
    "hue": _shift_hue,
}
