"""Each stage of a step by itself, on all ranks at the same time, so that they share cores and links as in a run."""

from contextlib import nullcontext
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from ops.doctor.clock import repeat_seconds
from ops.doctor.reading import Reading
from ops.doctor.together import seconds_a_step, share_of
from pipelines.canvas_cache import CanvasCache
from pipelines.loader import Batch, training_batches
from pipelines.prefetch import Prefetch
from train.ranks import Ranks

if TYPE_CHECKING:
    from train.trainer import Trainer

_LEAST_BATCHES, _MOST_BATCHES = 3, 50
_HELD_BATCHES = 2
_FIRST_BUCKET_BYTES = 2**20
"""DDP's, so that reducing begins early in backward."""
_CACHED_BYTES = 2**28
"""Of canvases to gather from: far more than the processor's own caches hold."""


def time_loader(
    trainer: "Trainer", ranks: Ranks, reading: Reading, seconds: float
) -> tuple[list[Batch], dict[str, float]]:
    """Make batches from encoded samples and do nothing with them.

    The loader's thread does one thing after another and notes its seconds, so that decoding has its bytes in memory.

    Args:
        trainer: whose batches.
        ranks: that do the same.
        reading: what is read, and how.
        seconds: to go on for; at least three batches are made.

    Returns:
        Some batches, and seconds a step by the loader's own stages.

    Raises:
        DataError: the data cannot be read.
    """
    config, device = trainer.config, trainer.accelerator.device
    share = share_of(config, ranks, last_step=_MOST_BATCHES)
    data = replace(reading.data, cache="none")
    made: list[Batch] = []
    with Prefetch(training_batches(reading.near, data, config.views, share, device), depth=1) as ahead:
        for batch in ahead:
            # A batch is large: some are kept, of others what they took to make.
            made.append(batch if len(made) <= _HELD_BATCHES else replace(batch, canvas=batch.canvas[:0]))
            spent = sum(sum(seconds_a_step([one]).values()) for one in made)
            if len(made) >= _LEAST_BATCHES and spent > seconds:
                break
    return made[1 : 1 + _HELD_BATCHES], seconds_a_step(made[1:])  # the first one builds DALI's pipeline


def time_training(trainer: "Trainer", ranks: Ranks, batches: list[Batch], seconds: float) -> dict[str, float | None]:
    """Augmentation, step and all-reduce of batches that lie on the device.

    Returns:
        Seconds a step: augment; step, without reducing gradients; all_reduce by itself and all_reduce_exposed, what it
        adds to the step; None on one rank.
    """
    device = trainer.accelerator.device
    turns, make_views = cycle(batches), trainer.views

    def augment() -> None:
        batch = next(turns)
        make_views(batch.canvas, batch.plan)

    taken: dict[str, float | None] = {"augment": repeat_seconds(augment, seconds, device, ranks)}
    in_memory = make_views(batches[0].canvas, batches[0].plan)
    trainer.views = lambda *_: in_memory
    try:
        with trainer.accelerator.no_sync(trainer.model) if ranks.world_size > 1 else nullcontext():
            taken["step"] = repeat_seconds(lambda: trainer.train_step(batches[0]), seconds, device, ranks)
        whole = repeat_seconds(lambda: trainer.train_step(batches[0]), seconds, device, ranks) if ranks.control else 0
    finally:
        trainer.views = make_views
    taken["all_reduce"] = time_all_reduce(trainer, ranks, seconds)
    taken["all_reduce_exposed"] = max(0.0, whole - (taken["step"] or 0.0)) if ranks.control else None
    return taken


def time_all_reduce(trainer: "Trainer", ranks: Ranks, seconds: float) -> float | None:
    """Seconds to reduce as many bytes as the model has gradients, in DDP's buckets; None on one rank."""
    if ranks.world_size == 1:
        return None
    config, device = trainer.config, trainer.accelerator.device
    dtype = {"none": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[config.ddp.comm_hook]
    buckets = [
        torch.zeros(size // 4, dtype=dtype, device=device)
        for size in bucket_sizes(gradient_bytes(trainer), config.ddp.bucket_mb * 2**20)
    ]

    def reduce() -> None:
        for work in [dist.all_reduce(bucket, async_op=True) for bucket in buckets]:
            if work is not None:
                work.wait()

    return repeat_seconds(reduce, seconds, device, ranks)


def gradient_bytes(trainer: "Trainer") -> int:
    """Of float32 gradients of one step."""
    return sum(4 * parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)


def bucket_sizes(total: int, bucket: int) -> list[int]:
    """Bytes of each of DDP's buckets, the first of them small."""
    first = min(total, _FIRST_BUCKET_BYTES, bucket)
    full, rest = divmod(total - first, bucket)
    return [first, *[bucket] * full, *([rest] if rest else [])]


def time_transfer(
    trainer: "Trainer", ranks: Ranks, batch: Batch, *, keeps_canvases: bool, encoded_bytes: int, seconds: float
) -> float | None:
    """Seconds in which a batch comes to the device.

    Where canvases are kept they are gathered, and copied if they lie on the host. Otherwise DALI copies encoded bytes
    to the device, as part of decoding: here the same number by themselves. None on the CPU, where nothing is copied.

    Args:
        trainer: whose batches.
        ranks: that do the same.
        batch: one of them.
        keeps_canvases: later epochs gather what was decoded.
        encoded_bytes: of a batch.
        seconds: to go on for.
    """
    device = trainer.accelerator.device
    on_cuda = device.type == "cuda"
    if keeps_canvases:
        side, images = batch.canvas.shape[-1], len(batch.sample_id)
        count = max(images, _CACHED_BYTES // (3 * side * side))
        pixels = torch.zeros(count, side, side, 3, dtype=torch.uint8, pin_memory=on_cuda)
        cache = CanvasCache(pixels, torch.ones(count, dtype=torch.int64), shared=False)
        ids = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:images].numpy()
        return repeat_seconds(lambda: cache.get(ids, pinned=on_cuda).to(device), seconds, device, ranks)
    if not on_cuda:
        return None
    encoded = torch.zeros(encoded_bytes, dtype=torch.uint8, pin_memory=True)
    return repeat_seconds(lambda: encoded.to(device, non_blocking=True), seconds, device, ranks)
