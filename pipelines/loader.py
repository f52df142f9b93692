"""Batches: the order's sample ids -> encoded bytes -> canvases, with the draws of their views.

order.py -> store.py -> decode.py -> Batch
              |  damaged? another sample takes the place
            draws.py
"""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.config import DataConfig, ViewsConfig
from pipelines.decode import Decoder, EncodedImage, UndecodableBatchError
from pipelines.draws import Draws, draw_views
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex
from pipelines.order import epoch_order, rank_positions, replacement, steps_per_epoch
from pipelines.store import DamagedSampleError, Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's part of a global batch of training."""

    step: int
    canvas: Tensor
    """(B, 3, S, S) uint8 on the device."""
    draws: Draws
    """Of both views of each image, on the device."""
    sample_id: Tensor
    """(B,) int64 on the host."""
    label: Tensor
    """(B,) int64 on the host; -1 where there is none."""
    skipped: tuple[DamagedSampleError, ...]
    """Samples that were found damaged while this batch was made, and replaced."""


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """One batch of evaluation, in the order of the split."""

    canvas: Tensor
    """(B, 3, S, S) uint8 on the device."""
    height: npt.NDArray[np.int64]
    """(B,) of the original images."""
    width: npt.NDArray[np.int64]
    label: Tensor
    """(B,) int64 on the host."""


def training_batches(
    split: SplitIndex,
    data: DataConfig,
    views: ViewsConfig,
    *,
    global_batch: int,
    seed: int,
    rank: int,
    world_size: int,
    device: torch.device,
    first_step: int,
    last_step: int,
) -> Iterator[Batch]:
    """Yield this rank's batches of steps first_step to last_step - 1.

    Raises:
        DataError: more samples are damaged than the budget allows, or a damaged one has no replacement left.
    """
    steps = steps_per_epoch(len(split), global_batch)
    mine = rank_positions(global_batch, rank, world_size)
    _enter_device(device)
    decoder = _decoder(split, data, len(mine), device)
    damaged: set[int] = set()
    order_epoch, order = -1, np.empty(0, dtype=np.int64)
    with closing(Store(split)) as store:
        for step in range(first_step, last_step):
            epoch, step_in_epoch = divmod(step, steps)
            if epoch != order_epoch:
                order_epoch, order = epoch, epoch_order(split.samples_per_shard, data.window_shards, seed, epoch)
            canvas, ids, skipped = _decode_wanted(order, step_in_epoch, global_batch, mine, store, decoder)
            for skip in skipped:
                logger.warning("%s is damaged (%s) and was replaced", store.describe(skip.sample_id), skip.reason)
                damaged.add(skip.sample_id)
            if len(damaged) > data.bad_sample_budget * len(split):
                raise DataError(
                    f"{split.location}: {len(damaged)} of {len(split)} samples are damaged, more than "
                    f"data.bad_sample_budget = {data.bad_sample_budget} allows; run `python -m pipelines.build_shards "
                    f"verify {split.location}` and build again"
                )
            records = split.samples[ids]
            height, width = records["height"].astype(np.int64), records["width"].astype(np.int64)
            draws = draw_views(views, ids, height, width, seed, epoch)
            if device.type == "cuda":
                draws = draws.pin_memory().to(device)
                torch.cuda.current_stream().synchronize()  # of this thread: what is handed over has arrived
            yield Batch(
                step=step,
                canvas=canvas,
                draws=draws,
                sample_id=torch.from_numpy(ids),
                label=torch.from_numpy(records["label"].astype(np.int64)),
                skipped=skipped,
            )


def evaluation_batches(
    split: SplitIndex, data: DataConfig, batch: int, device: torch.device
) -> Iterator[LabelledImages]:
    """Yield every sample of a split once, in stored order, the last batch being smaller.

    Raises:
        DataError: a sample is damaged; a number about part of a split would not be comparable.
    """
    _enter_device(device)
    decoder = _decoder(split, data, batch, device)
    with closing(Store(split)) as store:
        for first in range(0, len(split), batch):
            ids = np.arange(first, min(first + batch, len(split)))
            try:
                images = [store.read(int(i)) for i in ids]
                canvas = decoder.decode(images)
            except DamagedSampleError as error:
                raise DataError(
                    f"{store.describe(error.sample_id)}: {error.reason}; build the data set again"
                ) from None
            except UndecodableBatchError:
                bad = int(ids[decoder.undecodable(images)[0]])
                raise DataError(f"{store.describe(bad)}: cannot be decoded; build the data set again") from None
            records = split.samples[ids]
            yield LabelledImages(
                canvas=canvas,
                height=records["height"].astype(np.int64),
                width=records["width"].astype(np.int64),
                label=torch.from_numpy(records["label"].astype(np.int64)),
            )


def claim(tensor: Tensor) -> Tensor:
    """Say that the caller's stream reads a loader's tensor, so that its memory is not reused too early."""
    if tensor.is_cuda:
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor


def _decode_wanted(
    order: npt.NDArray[np.int64],
    step_in_epoch: int,
    global_batch: int,
    mine: npt.NDArray[np.int64],
    store: Store,
    decoder: Decoder,
) -> tuple[Tensor, npt.NDArray[np.int64], tuple[DamagedSampleError, ...]]:
    """Canvases and ids of this rank's positions in a global batch, damaged samples replaced."""
    ids = order[step_in_epoch * global_batch + mine]
    attempts = [0] * len(ids)
    skipped: list[DamagedSampleError] = []

    def replace(place: int, reason: str) -> None:
        skipped.append(DamagedSampleError(int(ids[place]), reason))
        candidate = replacement(order, step_in_epoch, global_batch, int(mine[place]), attempts[place])
        if candidate is None:
            raise DataError(f"{store.describe(int(ids[place]))}: {reason}, and no sample is left to replace it")
        ids[place] = candidate
        attempts[place] += 1

    def read(place: int) -> EncodedImage:
        while True:
            try:
                return store.read(int(ids[place]))
            except DamagedSampleError as error:
                replace(place, error.reason)

    images = [read(place) for place in range(len(ids))]
    while True:
        try:
            return decoder.decode(images), ids, tuple(skipped)
        except UndecodableBatchError:
            bad = decoder.undecodable(images)
            if not bad:
                raise  # not the images' fault
            for place in bad:
                replace(place, "undecodable")
                images[place] = read(place)


def _decoder(split: SplitIndex, data: DataConfig, batch: int, device: torch.device) -> Decoder:
    """A decoder that resizes only if an image is not already a canvas."""
    whole = (split.samples["height"] == data.canvas) & (split.samples["width"] == data.canvas)
    return Decoder(data.canvas, batch, data.decode_threads, device, resize=not whole.all())


def _enter_device(device: torch.device) -> None:
    """Give this thread its device and a stream of its own, so that copies do not queue behind the training step."""
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # a single process's device has no index
        torch.cuda.set_stream(torch.cuda.Stream())
