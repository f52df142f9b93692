"""Our loader as a contestant: from the order of samples to canvases, with one DALI thread."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pipelines.config import DataConfig
from pipelines.loader import CanvasBatch, Share, canvas_batches
from pipelines.manifest import open_split

_WITHOUT_END = 1 << 40


def decoded(shards: str, batch: int, canvas: int) -> Iterator[Tensor]:
    """Exact order, reading, checksums and decoding."""
    for made in _batches(shards, batch, DataConfig(dir=shards, canvas=canvas, cache="none")):
        yield made.canvas


def cached(shards: str, batch: int, canvas: int) -> Iterator[Tensor]:
    """The same order from the cache of decoded canvases, once all are there.

    Each epoch drops a tail of its own, so that it takes a few epochs to have met every sample.
    """
    batches = _batches(shards, batch, DataConfig(dir=shards, canvas=canvas, cache="memory"))
    epoch, decoded_in_epoch = 0, 1
    for made in batches:
        if made.part.epoch != epoch:
            if decoded_in_epoch == 0:
                break
            epoch, decoded_in_epoch = made.part.epoch, 0
        decoded_in_epoch += made.work.images_decoded
    for made in batches:
        yield made.canvas


def _batches(shards: str, batch: int, data: DataConfig) -> Iterator[CanvasBatch]:
    torch.set_num_threads(1)
    share = Share(global_batch=batch, seed=0, last_step=_WITHOUT_END)
    return canvas_batches(open_split(shards, "train"), data, share, torch.device("cpu"))
