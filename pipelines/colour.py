"""Colour jitter and grayscale in few passes over the pixels, each view in its own order of operations.

Brightness, contrast and saturation are one blend, each with another target, so that one pass serves views at which
different operations are due. The hue, the dear one, is changed once for all views, between the blends that come before
it and those that come after. Here images are (N, 3, P) float32 in [0, 1], their P pixels in a row.
"""

import torch
from torch import Tensor

from pipelines.plan import BLENDS, NO_BLEND, Plan, column

_TINY = 1e-12
"""Stands for black, whose saturation would be 0 / 0."""


def change_colours_(views: Tensor, plan: Plan, *, paper: bool) -> None:
    """Jitter and turn gray the views that are drawn for it.

    Args:
        views: (2B, 3, s, s), contiguous, changed in place.
        plan: of these.
        paper: whether by the formulas of the reference code, else by torchvision's.
    """
    pixels = views.flatten(2)
    luminance = plan.column("luminance").unsqueeze(1)  # the same in every row
    rows = plan.rows["jitter"]
    if len(rows):
        x = pixels.index_select(0, rows).clamp_(min=_TINY)  # those whose hue changes later stand first
        numbers = plan.numbers.index_select(0, rows)
        sizes = [(later, len(rows) - later) for later in plan.hue_later]
        xs = [x.split(parts) for parts in sizes]
        blends = [blend.split(parts) for parts, blend in zip(sizes, _blends(numbers), strict=True)]
        for j in range(BLENDS):
            blend_(xs[j][0], blends[j][0], luminance, paper=paper)
        shift_hue_(x, column(numbers, "hue shifts"))
        for j in range(BLENDS):
            blend_(xs[j][1], blends[j][1], luminance, paper=paper)
        pixels.index_copy_(0, rows, x)
    rows = plan.rows["grayscale"]
    if len(rows):
        gray = torch.bmm(luminance[: len(rows)], pixels.index_select(0, rows))
        pixels.index_copy_(0, rows, gray.expand(-1, 3, -1))


def change_all_colours(views: Tensor, numbers: Tensor, *, paper: bool) -> Tensor:
    """Do the same in shapes that do not depend on the draws, for a compiler.

    Every blend is made on every view, by a factor of 1 where none is due, and numbers are all that changes from batch
    to batch, so that one graph serves all orders.
    """
    x, luminance = views.flatten(2).clamp(min=_TINY), column(numbers, "luminance").unsqueeze(1)
    later = column(numbers, "hue later")[:, :, None, None, None].unbind(1)
    blends = _blends(numbers)
    none = torch.tensor(NO_BLEND, device=views.device).view(1, -1, 1, 1)
    for j in range(BLENDS):
        blend_(x, torch.where(later[j] > 0, blends[j], none), luminance, paper=paper)
    shift_hue_(x, column(numbers, "hue shifts"))
    for j in range(BLENDS):
        blend_(x, torch.where(later[j] > 0, none, blends[j]), luminance, paper=paper)
    return torch.lerp(x, torch.bmm(luminance, x), column(numbers, "grayscale").unsqueeze(2)).view_as(views)


def _blends(numbers: Tensor) -> tuple[Tensor, ...]:
    """Three of (N, 4, 1, 1)."""
    return column(numbers, "blends").view(-1, BLENDS, len(NO_BLEND), 1, 1).unbind(1)


def blend_(x: Tensor, blend: Tensor, luminance: Tensor, *, paper: bool) -> None:
    """Brightness, contrast or saturation: f x + (1 - f) target, where the target is black, the mean or the own gray.

    By torchvision's formulas, both contrast and saturation are in luminance. By those of the paper's code, contrast is
    about each channel's mean, and saturation that of HSV, multiplied by f and limited to 1. This needs no conversion:
    V, the highest channel, stays, and the distances to it stretch by min(f, V / C), until at chroma C = V the lowest
    channel is 0.

    Args:
        x: (N, 3, P), changed in place.
        blend: (N, 4, 1, 1), `blends` of `plan.column`.
        luminance: (N or more, 1, 3).
        paper: by whose formulas.
    """
    if not len(x):
        return
    factor, gray_share, mean_share, no_limit = blend.unbind(1)
    if paper:
        mean = x.mean(dim=2, keepdim=True).mul_(mean_share)
        value = x.amax(dim=1, keepdim=True)
        limit = torch.addcdiv(no_limit, value, value - x.amin(dim=1, keepdim=True))
        torch.lerp(value.mul_(gray_share), x, torch.minimum(limit, factor), out=x)
        x.add_(mean)
    else:
        gray = torch.bmm(luminance[: len(x)], x)
        mean = gray.mean(dim=2, keepdim=True)
        x.mul_(factor).add_(gray.mul_(gray_share).add_(mean.mul_(mean_share)))
    x.clamp_(_TINY, 1)


def shift_hue_(x: Tensor, shifts: Tensor) -> None:
    """Turn the hue of HSV, without the conversion.

    Value and chroma stay. With the hue h in sixths of a turn, red at 0 and from -3 to 3, each channel is
    lowest + chroma · clamp(| |h - its own hue| - 3 | - 1, 0, 1). h itself is, with e = highest - red and
    d = |green - blue|, (2e + |d - e|) / chroma, its sign that of green - blue.

    Args:
        x: (N, 3, P), changed in place.
        shifts: (N, 3) in sixths of a turn: of the hue, at most 1.5 to either side, less the channel's own hue.
    """
    red, green, blue = x.split(1, dim=1)
    highest, lowest = x.amax(dim=1, keepdim=True), x.amin(dim=1, keepdim=True)
    chroma = (highest - lowest).add_(_TINY)
    difference = green - blue
    below = highest.sub_(red)
    hue = difference.abs().sub_(below).abs_().add_(below, alpha=2).copysign_(difference).div_(chroma)
    weight = hue + shifts.unsqueeze(2)
    weight.abs_().sub_(3).abs_().clamp_(1, 2)  # 1 too high, and so is the lerp's start too low by the chroma
    torch.lerp(lowest - chroma, lowest, weight, out=x)
