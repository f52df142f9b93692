"""How sharp views of 224 px are by what they are cut from, and what that costs: python -m ops.bench sharpness.

The same drawn boxes are cut from canvases of several sides, and from the original images. Sharpness is the share of a
view's energy that lies in the upper half of the spectrum.
"""

import json
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse.typing import PositiveInt

from pipelines.config import DataConfig, ViewsConfig
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex, open_split
from train.arguments import parse
from train.distributed import fail
from train.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.loader import Batch

_SMALL = 0.25


@dataclass(frozen=True, kw_only=True)
class SharpnessConfig:
    """Which images, and how often."""

    imagenet: str = "data/imagenet"
    """Data set of images that are larger than the canvases."""
    canvases: tuple[int, ...] = (256, 320, 448)
    """Sides in pixels."""
    size: PositiveInt = 224
    """Of a view."""
    batch: PositiveInt = 32
    """Images."""
    epochs: PositiveInt = 4
    """In each of which every image gets other crops. Speeds are medians over them."""
    reference: Literal["paper", "torchvision"] = "paper"
    """Whose sampler of crops."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    try:
        config = parse(SharpnessConfig, arguments, prog="bench sharpness")
        split = open_split(config.imagenet, "train")
        if len(split) < config.batch:
            raise RunError(f"batch = {config.batch}: split train has {len(split)} images")
        report = measure(config, split)
    except (RunError, DataError) as error:
        fail("bench sharpness", error, show=True)
    if config.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{'cut from':<14}{'upper half':>12}{'small crops':>13}{'images/CPU-s':>14}")
    for name, entry in report.items():
        print(f"{name:<14}{entry['all']:>11.2%}{entry['small']:>12.2%}{entry['images_per_cpu_second']:>14,.0f}")


def measure(config: SharpnessConfig, split: SplitIndex) -> dict[str, dict[str, Any]]:
    """By what views are cut from.

    Returns:
        `all` and `small`: mean share of energy in the upper half of the spectrum, over all views and over those whose
        box covers less than a quarter of its image; and images_per_cpu_second, which decodes and cuts both views.
    """
    import torch

    torch.set_num_threads(1)
    named = {f"canvas {side}": (side, "canvas") for side in config.canvases} | {"source": (config.size, "source")}
    return {name: _measure_one(config, split, side, crop) for name, (side, crop) in named.items()}


def _measure_one(config: SharpnessConfig, split: SplitIndex, side: int, crop: Any) -> dict[str, Any]:
    from pipelines.augment import TwoViews

    views = ViewsConfig(
        size=config.size,
        reference=config.reference,
        crop=crop,
        flip_probability=0,
        jitter_probability=0,
        grayscale_probability=0,
        blur_probability=0,
    )
    make_views = TwoViews(views)
    shares: dict[str, list[float]] = {"all": [], "small": []}
    rates = []
    for epoch in range(config.epochs):
        seconds = images = 0.0
        batches = _batches(config, split, views, side, epoch)
        with closing(batches):
            start = time.process_time()
            for batch in batches:
                pixels = make_views(batch.canvas, batch.plan)
                seconds += time.process_time() - start
                images += len(batch.sample_id)
                energy = upper_half(pixels).tolist()
                area = batch.draws.box[:, 2] * batch.draws.box[:, 3]
                shares["all"] += energy
                shares["small"] += [share for share, of_image in zip(energy, area, strict=True) if of_image < _SMALL]
                start = time.process_time()
        rates.append(images / seconds)
    return {
        **{kind: sum(values) / max(len(values), 1) for kind, values in shares.items()},
        "images_per_cpu_second": median(rates),
    }


def _batches(
    config: SharpnessConfig, split: SplitIndex, views: ViewsConfig, side: int, epoch: int
) -> "Generator[Batch, None, None]":
    import torch

    from pipelines.loader import Share, training_batches

    per_epoch = len(split) // config.batch
    share = Share(global_batch=config.batch, seed=0, first_step=epoch * per_epoch, last_step=(epoch + 1) * per_epoch)
    return training_batches(split, DataConfig(canvas=side, cache="none"), views, share, torch.device("cpu"))


def upper_half(views: "Tensor") -> "Tensor":
    """Share of energy at radial frequencies above half of Nyquist's.

    Args:
        views: (N, 3, s, s).

    Returns:
        (N,) of the luminance's spectrum, its mean taken out and a Hann window laid over.
    """
    import torch

    gray = (views * views.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1)
    window = torch.hann_window(gray.shape[-1], periodic=False)
    gray = (gray - gray.mean(dim=(1, 2), keepdim=True)) * window[:, None] * window
    energy = torch.fft.fft2(gray).abs().square()
    frequency = torch.fft.fftfreq(gray.shape[-1])  # Nyquist's is 0.5
    upper = torch.hypot(frequency[:, None], frequency) > 0.25
    share: Tensor = (energy * upper).sum(dim=(1, 2)) / energy.sum(dim=(1, 2)).clamp(min=1e-12)
    return share
