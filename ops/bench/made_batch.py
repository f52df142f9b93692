"""Batches of noise, drawn and arranged as the loader does it: for what a step costs, whatever it learns from."""

from typing import TYPE_CHECKING

import numpy as np

from pipelines.manifest import INDEX_DTYPE, Manifest, SplitIndex
from train.config import PretrainConfig

if TYPE_CHECKING:
    import torch

    from pipelines.loader import Batch

CLASSES = 10
_STEPS_PER_EPOCH = 100


def made_split(config: PretrainConfig) -> SplitIndex:
    """A split of a hundred global batches that has no shards: enough to build a trainer, and nothing to read."""
    samples = np.zeros(_STEPS_PER_EPOCH * config.global_batch, dtype=INDEX_DTYPE)
    samples["label"] = np.arange(len(samples)) % CLASSES
    samples["height"] = samples["width"] = config.data.canvas
    names = tuple(f"class{number}" for number in range(CLASSES))
    manifest = Manifest(name="noise", classes=names, splits={}, statistics={}, made={})
    return SplitIndex(name="train", location="", manifest=manifest, shards=(), samples=samples)


def made_batch(
    config: PretrainConfig, step: int, device: "torch.device", rank: int = 0, world_size: int = 1
) -> "Batch":
    """This rank's part of the global batch of a step: the same at every call, on the device.

    Samples are those of `made_split`, in the order of their ids.
    """
    import torch

    from pipelines.canvases import LoaderWork
    from pipelines.draws import draw_views
    from pipelines.loader import Batch
    from pipelines.order import rank_positions
    from pipelines.plan import plan_views

    split = made_split(config)
    first = step % _STEPS_PER_EPOCH * config.global_batch
    ids = first + rank_positions(config.global_batch, rank, world_size)
    epoch = step // _STEPS_PER_EPOCH
    height, width = (split.samples[ids][name].astype(np.int64) for name in ("height", "width"))
    draws = draw_views(config.views, ids, height, width, config.seed, epoch, step)
    cut = config.views.crop == "source"
    side = config.views.size if cut else config.data.canvas
    noise = np.random.default_rng([config.seed % 2**32, step, rank])
    pixels = noise.integers(256, size=(len(draws) if cut else len(ids), side, side, 3), dtype=np.uint8)
    return Batch(
        step=step,
        canvas=torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device),  # channels last, as the loader gives it
        draws=draws,
        plan=plan_views(config.views, draws, config.data.canvas).to(device),
        sample_id=torch.from_numpy(ids),
        label=torch.from_numpy(split.samples["label"][ids].astype(np.int64)),
        skipped=(),
        work=LoaderWork(),
    )
