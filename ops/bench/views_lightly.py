"""Lightly's transform for SimCLR, on Pillow images, one by one."""

import random
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch

from ops.bench.views_input import make_canvases, one_thread
from ops.bench.views_setting import Setting, count_views


def views(setting: dict[str, Any]) -> Iterator[int]:
    """Numbers of views made: normalised, and stacked."""
    from PIL import Image

    transforms: Any = import_module("lightly.transforms")

    one_thread()
    torch.manual_seed(0)
    random.seed(0)
    asked = Setting(**setting)
    augment = transforms.SimCLRTransform(input_size=asked.size, cj_strength=asked.strength, gaussian_blur=asked.blur)
    images = [Image.fromarray(canvas.permute(1, 2, 0).numpy()) for canvas in make_canvases(asked)]
    while True:
        pairs = [augment(image) for image in images]
        yield count_views([torch.stack([pair[view] for view in range(2) for pair in pairs])], asked)
