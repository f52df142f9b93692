"""What an encoder has to beat besides chance: the pixels themselves, and its own architecture untrained."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.config import EncoderConfig
from model.encoder import build_encoder
from pipelines.manifest import SplitIndex

_PIXELS = 32


def raw_pixels(views: Tensor) -> Tensor:
    """The view itself, resized to 32 pixels if it is larger: (B, 3, s, s) -> (B, 3·min(s, 32)²)."""
    if views.shape[-1] > _PIXELS:
        views = F.interpolate(views, (_PIXELS, _PIXELS), mode="bilinear", antialias=True)
    return views.flatten(1)


def random_encoder(config: EncoderConfig, image_size: int, seed: int) -> Any:
    """An untrained encoder: with a run's seed, the one it started from. The global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(config, image_size)


@torch.no_grad()
def calibrate_batchnorm(network: nn.Module, views: Iterable[Tensor]) -> None:
    """Give BatchNorm the statistics of the data: without them an untrained encoder is weaker than it need be.

    Running statistics become the mean over the batches. All other layers stay in eval mode.

    Args:
        network: left in eval mode; one without BatchNorm is left alone.
        views: batches of the same size that the network takes, (B, 3, s, s).
    """
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    if not layers:
        return
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
        layer.train()
    for batch in views:
        network(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


def spread(split: SplitIndex, samples: int) -> SplitIndex:
    """A part of a split, evenly spaced over it, so that data stored class by class is met evenly."""
    rows = torch.linspace(0, len(split) - 1, min(samples, len(split))).round().long().numpy()
    return dataclasses.replace(split, samples=split.samples[rows])
