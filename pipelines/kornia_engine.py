"""The plain reading of the views: each drawn operation by Kornia's own function, one after another.

What Kornia lacks is not here: crops that shrink are filtered by `resize_by_matrices` in both engines, because Kornia's
anti-aliasing is another filter than torchvision's.
"""

import math

import kornia
import torch
from torch import Tensor

from pipelines.crop import resize_by_matrices, sampling_places
from pipelines.draws import COLOUR_OPERATIONS
from pipelines.plan import LUMINANCE, Plan, blur_radius


def kornia_crop(canvas: Tensor, axes: Tensor, size: int, shrink: Tensor) -> Tensor:
    """As `crop_resize_flip`."""
    pixels = canvas.to(torch.float32, memory_format=torch.contiguous_format) / 255
    pixels = pixels.repeat(len(axes) // len(canvas), 1, 1, 1)
    down, across = sampling_places(axes, size).unbind(1)
    map_x, map_y = across[:, None, :].expand(-1, size, -1), down[:, :, None].expand(-1, -1, size)
    views: Tensor = kornia.geometry.remap(
        pixels, map_x, map_y, "bilinear", "border", align_corners=False, normalized_coordinates=True
    )
    if len(shrink):
        views[shrink] = resize_by_matrices(pixels[shrink], axes[shrink], size, "bilinear")
    return views


def kornia_colours_(views: Tensor, plan: Plan, *, paper: bool) -> None:
    """As `change_colours_`."""
    functions = _PAPER if paper else _TORCHVISION
    for stage in range(len(COLOUR_OPERATIONS)):
        for column, name in enumerate(COLOUR_OPERATIONS):
            rows = plan.rows[f"{name} {stage}"]
            if len(rows):
                views[rows] = functions[name](views[rows], plan.column("factors")[rows, column]).clamp(0, 1)
    rows = plan.rows["grayscale"]
    if len(rows):
        weights = views.new_tensor(LUMINANCE["paper" if paper else "torchvision"])
        views[rows] = kornia.color.rgb_to_grayscale(views[rows], weights).expand(-1, 3, -1, -1)


def kornia_blur_(views: Tensor, plan: Plan, *, zero_border: bool) -> None:
    """As `filters.blur_`, with one kernel for all."""
    rows = torch.cat([plan.rows["blur narrow"], plan.rows["blur wide"]])
    if len(rows):
        # Not gaussian_blur2d, which reads sigma back to the host to check its sign.
        kernel = kornia.filters.get_gaussian_kernel1d(2 * blur_radius(views.shape[-1]) + 1, plan.column("sigma")[rows])
        border = "constant" if zero_border else "reflect"
        views[rows] = kornia.filters.filter2d_separable(views[rows], kernel, kernel, border)


def _shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    shifted: Tensor = kornia.enhance.adjust_hue(images, turns * (2 * math.pi))
    return shifted


def _contrast_of_channels(images: Tensor, factor: Tensor) -> Tensor:
    """About the mean of each channel, as TensorFlow's; Kornia has it about that of the luminance only."""
    return torch.lerp(images.mean(dim=(2, 3), keepdim=True), images, factor[:, None, None, None])


_TORCHVISION = {
    "brightness": kornia.enhance.adjust_brightness_accumulative,
    "contrast": kornia.enhance.adjust_contrast_with_mean_subtraction,
    "saturation": kornia.enhance.adjust_saturation_with_gray_subtraction,
    "hue": _shift_hue,
}
_PAPER = {
    "brightness": kornia.enhance.adjust_brightness_accumulative,
    "contrast": _contrast_of_channels,
    "saturation": kornia.enhance.adjust_saturation,
    "hue": _shift_hue,
}
