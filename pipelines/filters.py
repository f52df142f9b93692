"""What is done to a view besides crop and colour: blur, and the further operations of the paper's composition study.

Each takes all views of a batch, (2B, 3, s, s) float32 in [0, 1], and changes the rows that are drawn for it in place.
"""

import math

import kornia
import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor

from pipelines.plan import Plan, blur_radius, narrow_radius

CUTOUT_GRAY = 0.5


def blur_(views: Tensor, plan: Plan, *, zero_border: bool) -> None:
    """Gaussian blur with each view's own sigma; small sigmas by a kernel that leaves out taps of no weight.

    Args:
        views: see above.
        plan: of these.
        zero_border: as the reference code; else the image is mirrored at its border, as in torchvision.
    """
    size = views.shape[-1]
    widest, narrow = blur_radius(size), narrow_radius(size)
    squares = torch.arange(-widest, widest + 1, device=views.device, dtype=views.dtype).square_()
    taps = torch.softmax(plan.column("blur exponent") * squares, dim=1)
    taps = taps.unsqueeze(1).expand(-1, 3, -1)  # (2B, 3, taps): each channel is a group of the convolutions
    inner_taps = taps.narrow(2, widest - narrow, 2 * narrow + 1)
    for rows, kernels, radius in (
        (plan.rows["blur narrow"], inner_taps, narrow),
        (plan.rows["blur wide"], taps, widest),
    ):
        if len(rows):
            x = views.index_select(0, rows).view(1, -1, size, size)
            across = kernels.index_select(0, rows).view(x.shape[1], 1, 1, -1)
            down = across.transpose(2, 3)
            if zero_border:
                x = F.conv2d(x, across, padding=(0, radius), groups=len(across))
                x = F.conv2d(x, down, padding=(radius, 0), groups=len(down))
            else:
                x = F.conv2d(F.pad(x, (radius, radius, 0, 0), "reflect"), across, groups=len(across))
                x = F.conv2d(F.pad(x, (0, 0, radius, radius), "reflect"), down, groups=len(down))
            views.index_copy_(0, rows, x.view(-1, 3, size, size))


def rotate_(views: Tensor, plan: Plan) -> None:
    """Quarter turns to the left."""
    for turns in (1, 2, 3):
        rows = plan.rows[f"turn {turns}"]
        if len(rows):
            views[rows] = torch.rot90(views[rows], turns, dims=(2, 3))


def sobel_(views: Tensor, plan: Plan) -> None:
    """The magnitude of each channel's gradient, not normalised but clipped: a step of a quarter is white already."""
    rows = plan.rows["sobel"]
    if len(rows):
        views[rows] = sobel_magnitude(views[rows])


def sobel_magnitude(views: Tensor) -> Tensor:
    """What `sobel_` makes of every view: (B, 3, s, s) -> (B, 3, s, s) in [0, 1]."""
    filtered: Tensor = kornia.filters.sobel(views, normalized=False)
    return filtered.clamp_(0, 1)


def add_noise_(views: Tensor, plan: Plan) -> None:
    """Gaussian noise, clipped; each number a hash of the view's key and the number's place, the same on any device."""
    rows = plan.rows["noise"]
    if len(rows):
        noisy = views[rows]
        normal = standard_normal(plan.rows["noise key"].to(torch.int32), noisy[0].numel())
        normal.mul_(plan.column("noise std").index_select(0, rows))
        views[rows] = noisy.add_(normal.view_as(noisy)).clamp_(0, 1)


def standard_normal(keys: Tensor, length: int) -> Tensor:
    """(n,) int32 keys -> (n, length) float32, normally distributed (Box and Muller 1958), the same on any device."""
    places = torch.arange(length, device=keys.device, dtype=torch.int32)
    key = _hash32(keys)[:, None]
    radius = _uniform(_hash32(key ^ (2 * places))).log_().mul_(-2).sqrt_()
    angle = _uniform(_hash32(key ^ (2 * places + 1))).mul_(2 * math.pi).cos_()
    return radius.mul_(angle)


def cut_out_(views: Tensor, plan: Plan, *, side: float) -> None:
    """Hide a square of a share of the view's side behind gray."""
    rows = plan.rows["cutout"]
    if len(rows):
        size = views.shape[-1]
        middle = (torch.arange(size, device=views.device, dtype=views.dtype) + 0.5) / size
        centre = plan.column("cutout centre").index_select(0, rows)
        hidden = (middle - centre[:, :, None]).abs() < side / 2  # (n, 2, s): rows, columns
        views[rows] = views[rows].masked_fill_((hidden[:, 0, :, None] & hidden[:, 1, None, :])[:, None], CUTOUT_GRAY)


def _hash32(x: Tensor) -> Tensor:
    """Mix int32 numbers; arithmetic modulo 2^32 (the constants: C. Wellons, Prospecting for Hash Functions, 2018)."""
    x = (x ^ _shift(x, 16)) * 0x7FEB352D
    x = (x ^ _shift(x, 15)) * (0x846CA68B - 2**32)
    return x ^ _shift(x, 16)


def _shift(x: Tensor, bits: int) -> Tensor:
    """To the right, filling with zeros, as for unsigned numbers."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def _uniform(bits: Tensor) -> Tensor:
    """(0, 1) on a grid of 2^-24, shifted by half a step so that the logarithm exists."""
    return (_shift(bits, 8).to(torch.float32) + 0.5).mul_(2.0**-24)
