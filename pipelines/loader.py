"""Batches: the order's sample ids -> canvases, with the draws of their views.

order.py -> canvases.py -> draws.py -> plan.py -> Batch
              ^                |
              +--- the boxes --+   where crops are cut from the original images
"""

import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipelines.canvas_cache import open_canvas_cache
from pipelines.canvases import CanvasReader, LoaderWork
from pipelines.config import DataConfig, ViewsConfig
from pipelines.damaged_samples import DamagedSamples, StandIns
from pipelines.decode import Boxes, SourceCrops
from pipelines.draws import Draws, draw_views
from pipelines.encoded import DamagedSampleError
from pipelines.manifest import SplitIndex
from pipelines.order import GlobalBatch, IdArray, SampleOrder, rank_positions
from pipelines.plan import Plan, plan_views
from pipelines.read_ahead import ReadAhead


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of which global batches a rank computes."""

    global_batch: int
    seed: int
    """Of the order and of the views, in [0, 2^64)."""
    rank: int = 0
    world_size: int = 1
    ranks_on_node: int = 1
    """That share the memory and the disk of this node."""
    first_step: int = 0
    last_step: int
    """The step before which to end."""


@dataclass(frozen=True, kw_only=True)
class CanvasBatch:
    """One rank's part of a global batch, before its views are drawn."""

    step: int
    part: GlobalBatch
    ids: IdArray
    """(B,) sample ids, those that stand in for damaged ones among them."""
    canvas: Tensor
    """(B, 3, S, S) uint8 on the device, or (2B, 3, s, s) crops."""
    skipped: tuple[DamagedSampleError, ...]
    """Damaged samples that were replaced."""
    work: LoaderWork


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's part of a global batch of training."""

    step: int
    canvas: Tensor
    """(B, 3, S, S) uint8 on the device; (2B, 3, s, s), the crops of the views, where they are cut from the source."""
    draws: Draws
    """Of both views of each image, or of the first alone, where one was asked for: B of all that is 2B here."""
    plan: Plan
    """The same for the device, and there."""
    sample_id: Tensor
    """(B,) int64 on the host."""
    label: Tensor
    """(B,) int64 on the host, pinned if the device is CUDA; -1 where there is none."""
    skipped: tuple[DamagedSampleError, ...]
    """Damaged samples that were replaced."""
    work: LoaderWork


def training_batches(
    split: SplitIndex,
    data: DataConfig,
    views: ViewsConfig,
    share: Share,
    device: torch.device,
    damaged_dir: Path | None = None,
    stop: threading.Event | None = None,
    views_per_image: Literal[1, 2] = 2,
) -> Generator[Batch, None, None]:
    """Yield this rank's batches of steps first_step to last_step - 1.

    Args:
        split: what is learned from.
        data: how it is read.
        views: how they are drawn.
        share: which batches, and which part of them.
        device: where canvases and draws are wanted.
        damaged_dir: where damaged samples are remembered from run to run.
        stop: when another thread sets it, waiting for the network ends with DataError.
        views_per_image: 1 gives the first view of each image alone, the same as with 2: for learning from labels.

    Raises:
        DataError: more samples are damaged than the budget allows, a damaged one has no replacement left, or a remote
            data set cannot be reached.
    """

    def draws_of(ids: IdArray, part: GlobalBatch, step: int) -> Draws:
        records = split.samples[ids]
        height, width = records["height"].astype(np.int64), records["width"].astype(np.int64)
        return draw_views(views, ids, height, width, share.seed, part.epoch, step)

    def boxes_of(ids: IdArray, part: GlobalBatch, step: int) -> Boxes:
        return draws_of(ids, part, step).box

    crops = None
    if views.crop == "source":
        crops = SourceCrops(size=views.size, bicubic=views.interpolation == "bicubic", boxes_of=boxes_of)
    with closing(canvas_batches(split, data, share, device, damaged_dir, stop, crops)) as batches:
        for batch in batches:
            with batch.work.timed("draw"):
                draws = draws_of(batch.ids, batch.part, batch.step)
                if views_per_image == 1:
                    draws = draws.take(np.arange(len(batch.ids)))
                label = torch.from_numpy(split.samples[batch.ids]["label"].astype(np.int64))
                plan = plan_views(views, draws, data.canvas)
            if device.type == "cuda":
                with batch.work.timed("transfer"):
                    label, plan = label.pin_memory(), plan.pin_memory().to(device)
                    torch.cuda.current_stream().synchronize()  # of this thread: what is handed over has arrived
            yield Batch(
                step=batch.step,
                canvas=batch.canvas if crops is None else batch.canvas[: len(draws)],
                draws=draws,
                plan=plan,
                sample_id=torch.from_numpy(batch.ids),
                label=label,
                skipped=batch.skipped,
                work=batch.work,
            )


def canvas_batches(
    split: SplitIndex,
    data: DataConfig,
    share: Share,
    device: torch.device,
    damaged_dir: Path | None = None,
    stop: threading.Event | None = None,
    crops: SourceCrops | None = None,
) -> Generator[CanvasBatch, None, None]:
    """Yield what `training_batches` adds draws to; same arguments and errors, and the crops if they are cut here."""
    enter_device(device)
    order = SampleOrder(
        split.samples_per_shard, window_shards=data.window_shards, global_batch=share.global_batch, seed=share.seed
    )
    positions = rank_positions(share.global_batch, share.rank, share.world_size)
    damaged = DamagedSamples(split=split, budget=data.bad_sample_budget, directory=damaged_dir, rank=share.rank)
    cache = None if crops else open_canvas_cache(split, data, device, share.ranks_on_node)
    reader = CanvasReader(
        split, data, batch=len(positions), device=device, damaged=damaged, cache=cache, crops=crops, stop=stop
    )
    with closing(reader):
        ahead = ReadAhead(split, data, share.seed, reader.store)
        for step in range(share.first_step, share.last_step):
            part = order.batch(step)
            ahead.reach(part.epoch, part.first)
            ids, work = part.ids(share.rank, share.world_size), LoaderWork()
            stand_ins = StandIns(part, positions, damaged, reader.store)
            boxes_of = partial(crops.boxes_of, part=part, step=step) if crops else None
            canvas = reader.read(ids, stand_ins.replace, work, boxes_of)
            yield CanvasBatch(step=step, part=part, ids=ids, canvas=canvas, skipped=tuple(stand_ins.skipped), work=work)


def claim(tensor: Tensor) -> Tensor:
    """Say that the caller's stream reads a loader's tensor, so that its memory is not reused too early."""
    if tensor.is_cuda:
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor


def enter_device(device: torch.device) -> None:
    """Give this thread its device and a stream of its own, so that copies do not queue behind the training step."""
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # a single process's device has no index
        torch.cuda.set_stream(torch.cuda.Stream())
