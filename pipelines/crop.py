"""Cut boxes from canvases, resize them to a square and mirror them: one sampling pass for crop, resize and flip.

A crop that is enlarged is sampled at its pixels' places; one that is shrunk is filtered on the way. On whole pixels
both are torchvision's `resized_crop(antialias=True)`.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]

AXIS_NUMBERS = 7


def crop_axes(
    box: npt.NDArray[np.float64], flip: npt.NDArray[np.bool_], size: int, side: int
) -> npt.NDArray[np.float64]:
    """How crops lie on their canvas, worked out on the host.

    Args:
        box: (N, 4) top, left, height, width as shares of the image.
        flip: (N,).
        size: s, side of the views in pixels.
        side: S, of the canvas.

    Returns:
        (N, 2, 7), first of the rows, then of the columns, on a canvas that reaches from -1 to 1: where the view begins
        (the box's far edge if mirrored), the step from one of its pixels to the next; the least and the greatest place
        to sample, half a canvas pixel inside the box, so that nothing outside is seen; where the box starts and ends;
        and the reciprocal of the filter's reach, a step or at least a canvas pixel.
    """
    pixel = 2 / side
    start, length = 2 * box[:, :2] - 1, 2 * box[:, 2:]
    end = start + length
    mirrored = np.stack([np.zeros_like(flip), flip], axis=1)
    step = length / size
    least = start + pixel / 2
    greatest = np.maximum(end - pixel / 2, least)
    origin, signed_step = np.where(mirrored, end, start), np.where(mirrored, -step, step)
    return np.stack([origin, signed_step, least, greatest, start, end, 1 / np.maximum(step, pixel)], axis=2)


def crop_resize_flip(canvas: Tensor, axes: Tensor, size: int, shrink: Tensor) -> Tensor:
    """Bilinear crops.

    Args:
        canvas: (B, 3, S, S) uint8.
        axes: (V·B, 2, 7) float32; row i cuts from image i mod B.
        size: s, side of the result in pixels.
        shrink: int64 rows whose box is higher or wider than s pixels of the canvas.

    Returns:
        (V·B, 3, s, s) float32 in [0, 1].
    """
    images = len(canvas)
    pixels = canvas.to(torch.float32).mul_(1 / 255)
    if len(shrink) == len(axes):
        views = pixels.new_empty(len(axes), 3, size, size)
    else:
        down, across = sampling_places(axes, size).unbind(1)
        places = torch.broadcast_tensors(across.unsqueeze(1), down.unsqueeze(2))
        grids = torch.stack(places, dim=3).split(images)
        views = torch.cat([F.grid_sample(pixels, at, padding_mode="border", align_corners=False) for at in grids])
    if len(shrink):
        cut = pixels.index_select(0, shrink % images)
        views.index_copy_(0, shrink, resize_by_matrices(cut, axes.index_select(0, shrink), size, "bilinear"))
    return views


def crop_by_matrices(canvas: Tensor, axes: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    """Crops of any scale; as `crop_resize_flip` otherwise. More arithmetic, but bicubic, too."""
    pixels = canvas.to(torch.float32).mul_(1 / 255)
    views = pixels.new_empty(len(axes), 3, size, size)
    for part, into in zip(axes.split(len(canvas)), views.split(len(canvas)), strict=True):
        into.copy_(resize_by_matrices(pixels, part, size, interpolation))
    return views


def resize_by_matrices(pixels: Tensor, axes: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    """Resizing is linear in the pixels and separable: two matrix products, into which crop, filter and flip are folded.

    Args:
        pixels: (N, 3, S, S) float32, best channels last.
        axes: (N, 2, 7).
        size: s.
        interpolation: its kernel.

    Returns:
        (N, 3, s, s) float32 in [0, 1]; what bicubic overshoots is cut off.
    """
    images, channels, side, _ = pixels.shape
    rows, columns = _weights(axes, size, side, interpolation).unbind(1)
    low = torch.bmm(rows, pixels.permute(0, 2, 3, 1).flatten(2)).view(images, size, side, channels)
    small = torch.bmm(low.transpose(2, 3).flatten(1, 2), columns.transpose(1, 2)).view(images, size, channels, size)
    resized = small.transpose(1, 2)
    return resized.clamp_(0, 1) if interpolation == "bicubic" else resized


def sampling_places(axes: Tensor, size: int) -> Tensor:
    """(N, 2, s) where the pixels of enlarged views are sampled: rows and columns of a canvas from -1 to 1."""
    origin, step, least, greatest, *_ = axes.split(1, dim=2)
    return torch.clamp(_centres(origin, step, size), least, greatest)


def _centres(origin: Tensor, step: Tensor, size: int) -> Tensor:
    """(N, 2, s) the centre of each pixel of the view, along both axes of the canvas."""
    return torch.addcmul(origin, step, torch.arange(0.5, size, device=step.device, dtype=step.dtype))


def _weights(axes: Tensor, size: int, side: int, interpolation: Interpolation) -> Tensor:
    """(N, 2, s, S): how much of each row or column of the canvas goes into each of the view.

    A filter as wide as an output pixel (at least as an input pixel), cut at the box: a canvas pixel counts as far as it
    lies inside.
    """
    edges = torch.linspace(-1, 1, side + 1, device=axes.device, dtype=axes.dtype)
    middles = torch.linspace(1 / side - 1, 1 - 1 / side, side, device=axes.device, dtype=axes.dtype)
    origin, step, _, _, start, end, reciprocal = axes.split(1, dim=2)
    distance = (middles - _centres(origin, step, size).unsqueeze(3)).abs_().mul_(reciprocal.unsqueeze(3))
    weights = distance.neg_().add_(1).clamp_(min=0) if interpolation == "bilinear" else _cubic(distance)
    reached = torch.clamp(edges, start, end)  # (N, 2, S + 1)
    weights.mul_((reached[:, :, 1:] - reached[:, :, :-1]).unsqueeze(2))
    return weights.div_(weights.sum(dim=3, keepdim=True))


def _cubic(distance: Tensor) -> Tensor:
    """The cubic convolution kernel (Keys 1981) with a = -0.5, as TensorFlow and Pillow have it."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))
