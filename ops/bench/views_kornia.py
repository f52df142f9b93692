"""Kornia's own augmentation of whole batches, as its documentation composes it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ops.bench.views_input import make_canvases, one_thread
from ops.bench.views_setting import Setting, count_views

_COMPILING_BATCHES = 20
_MOST_VERSIONS = 64


def views(setting: dict[str, Any], compiled: bool) -> Iterator[int]:
    """Numbers of views made.

    Args:
        setting: of `Setting`.
        compiled: by torch.compile, whose cost comes before the first batch. A function that is compiled anew again and
            again is a failure; otherwise it would be left uncompiled, silently. torch's own limit of 8 versions is too
            low for code that all operations share.
    """
    one_thread()
    asked = Setting(**setting)
    make = maker(asked, compiled=compiled)
    for _ in range(_COMPILING_BATCHES if compiled else 0):
        make()
    while True:
        yield count_views(make(), asked)


def maker(setting: Setting, *, compiled: bool = False) -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that makes first and second views of one batch, other ones at each call."""
    from kornia.augmentation import (
        AugmentationSequential,
        ColorJitter,
        RandomGaussianBlur,
        RandomGrayscale,
        RandomHorizontalFlip,
        RandomResizedCrop,
    )

    torch.manual_seed(0)
    blend, hue = 0.8 * setting.strength, 0.2 * setting.strength
    side = (setting.size, setting.size)
    blur = [RandomGaussianBlur((23, 23), (0.1, 2.0), p=setting.blur)] if setting.blur else []
    augment: Any = AugmentationSequential(
        RandomResizedCrop(side, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
        RandomHorizontalFlip(p=0.5),
        ColorJitter(blend, blend, blend, hue, p=0.8),
        RandomGrayscale(p=0.2),
        *blur,
        data_keys=["input"],
    )
    if compiled:
        torch._dynamo.config.recompile_limit = _MOST_VERSIONS
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        augment = torch.compile(augment)
    canvases = make_canvases(setting)

    def make() -> tuple[Tensor, Tensor]:
        pixels = canvases.float().contiguous().div_(255)
        return augment(pixels), augment(pixels)

    return make
