"""The same smooth random canvases for every contestant; a peer's Python need only have torch, and not what ours has."""

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor

from ops.bench.views_setting import Setting

_PATCHES = 8


def make_canvases(setting: Setting) -> Tensor:
    """(B, 3, S, S) uint8, channels last: smooth, as photographs are, with every level from 0 to 255."""
    noise = torch.rand(setting.images, 3, _PATCHES, _PATCHES, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(noise, size=(setting.canvas, setting.canvas), mode="bicubic", align_corners=False)
    return smooth.clamp_(0, 1).mul_(255).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def one_thread() -> None:
    """In torch, too."""
    torch.set_num_threads(1)
