"""Torchvision's transforms (v2), image by image, as a data set's `transform` is called."""

from collections.abc import Iterator
from typing import Any

import torch

from ops.bench.views_input import make_canvases, one_thread
from ops.bench.views_setting import Setting, count_views


def views(setting: dict[str, Any]) -> Iterator[int]:
    """Numbers of views made: on uint8 tensors up to the last step, and stacked."""
    from torchvision.transforms import v2

    one_thread()
    torch.manual_seed(0)
    asked = Setting(**setting)
    blend, hue = 0.8 * asked.strength, 0.2 * asked.strength
    blur = [v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], p=asked.blur)] if asked.blur else []
    augment = v2.Compose(
        [
            v2.RandomResizedCrop(asked.size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), antialias=True),
            v2.RandomHorizontalFlip(p=0.5),
            v2.RandomApply([v2.ColorJitter(blend, blend, blend, hue)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            *blur,
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    images = [canvas.contiguous() for canvas in make_canvases(asked)]
    while True:
        yield count_views([torch.stack([augment(image) for _ in range(2) for image in images])], asked)
