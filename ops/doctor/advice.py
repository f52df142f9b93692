"""What to change, by what was measured: the surest first, each with its reason."""

import math
import os
from collections.abc import Iterator

from model.native_precision import native_precision
from ops.doctor.config import DoctorConfig
from ops.doctor.diagnosis import STARVED_SHARE
from ops.doctor.examine import Findings
from ops.doctor.kept import canvas_bytes
from ops.doctor.size_text import size_text
from pipelines.manifest import SplitIndex

_LARGE_PIXELS = 2.0
"""Times the canvas's pixels that a stored image has on average, from which on storing it smaller pays."""
_JITTERY_SHARE = 0.02


def advice(config: DoctorConfig, split: SplitIndex, findings: Findings) -> list[str]:
    """Lines: a setting or a deed, a colon, why."""
    main = findings.diagnosis.main
    lines = [*_on(main.bottleneck, config, split, findings)]
    if main.starved and main.phase.name == "first epoch" and len(findings.diagnosis.phases) > 1:
        lines.append(
            "nothing, if the run is to be longer: only the first epoch is slowed, but it takes most of this one's time"
        )
    if not main.starved and main.phase.wait_share >= _JITTERY_SHARE:
        batches = config.data.prefetch_batches * 2
        lines.append(
            f"data.prefetch_batches = {batches}: training waits for {main.phase.wait_share:.0%} of the time though the "
            f"loader is fast enough on average; costs memory for {batches - config.data.prefetch_batches} more batches"
        )
    lines += [
        f"look at rank {one.rank}: {one.times:.1f} times as slow as the others at {one.stage}; all ranks wait for it"
        for one in findings.stragglers
    ]
    return lines


def _on(bottleneck: str, config: DoctorConfig, split: SplitIndex, findings: Findings) -> Iterator[str]:
    match bottleneck:
        case "storage":
            return _on_storage(config, split, findings)
        case "decode":
            return _on_decode(config, split, findings)
        case "augment":
            return _on_augment(config, findings)
        case "transfer":
            return _on_transfer(config, split, findings)
        case "step":
            return _on_step(config, findings)
        case _:
            return _on_all_reduce(config, findings)


def _on_storage(config: DoctorConfig, split: SplitIndex, findings: Findings) -> Iterator[str]:
    total = sum(shard.bytes for shard in split.shards)
    if findings.kept.source == "ranges" and total <= config.data.shard_cache_bytes:
        yield (
            f"data.remote = shards: all {size_text(total)} fit into data.shard_cache_bytes, so that the network is "
            "needed in the first epoch only"
        )
    if findings.kept.source == "copies":
        yield f"data.fetch_threads = {2 * config.data.fetch_threads}: one connection may not fill the network"
        if not findings.kept.copies:
            yield (
                f"data.shard_cache_bytes = {total}: what does not fit is fetched anew in each epoch; the set has "
                f"{size_text(total)}"
            )
    yield from _keep_canvases(config, split, findings, "then nothing is read after the first epoch")
    if split.manifest.resize == "none" and _pixels_ratio(config, split) > _LARGE_PIXELS:
        yield _store_smaller(config, split, "fewer bytes have to be read")
    if findings.kept.source == "local":
        yield "another disk: copy the shards to a local NVMe disk, or a RAM disk, if they lie on a network or slow disk"
        if len(split.shards) > config.data.window_shards > 8:
            yield (
                f"data.window_shards = {config.data.window_shards // 4}: reads stay closer together, mixing is less "
                "thorough; this changes the order, so it is for a new run"
            )
    else:
        yield "data.dir: bring the data nearer; a copy on this node or in the same region is not limited by the network"


def _on_decode(config: DoctorConfig, split: SplitIndex, findings: Findings) -> Iterator[str]:
    cores = max(1, len(os.sched_getaffinity(0)) // findings.ranks_on_node)
    if config.data.decode_threads < cores and findings.diagnosis.main.starved:
        yield (
            f"data.decode_threads = {cores}: {config.data.decode_threads} of DALI's threads decode, and this rank has "
            f"{cores} cores"
        )
    if config.views.crop == "source":
        yield "views.crop = canvas: views.crop = source decodes every image anew in every epoch; this changes the views"
    else:
        yield from _keep_canvases(config, split, findings, "then every image is decoded once")
    if split.manifest.resize == "none" and _pixels_ratio(config, split) > _LARGE_PIXELS:
        yield _store_smaller(config, split, "a decoder's work grows with the pixels that are stored")
    if findings.device == "cpu" and (config.data.decode_threads >= cores or not findings.diagnosis.main.starved):
        yield "more cores, or a GPU: there nvJPEG decodes"
    if config.data.canvas > 1.5 * config.views.size:
        yield (
            f"data.canvas = {_rounded(1.15 * config.views.size)}: the canvas is "
            f"{config.data.canvas / config.views.size:.1f} times the side of a view; a smaller one is made "
            "faster, and crops lose sharpness"
        )


def _on_augment(config: DoctorConfig, findings: Findings) -> Iterator[str]:
    if findings.diagnosis.main.of_loader:
        yield "a smaller global_batch per rank, more ranks: drawing views is the loader's thread's own work on the host"
        return
    if config.views.engine != "lean":
        yield f"views.engine = lean: the same mathematics as {config.views.engine}, in fewer passes over the pixels"
    elif not config.views.compile:
        yield "views.compile = true: fuses the colour operations; needs a compiler"
    yield from _on_threads(config, findings)
    if config.views.interpolation == "bicubic" and config.views.crop == "canvas":
        yield "views.interpolation = bilinear: bicubic reads four times the pixels; this changes the views"
    if config.views.crop == "canvas" and config.data.canvas > 1.5 * config.views.size:
        yield f"data.canvas = {_rounded(1.15 * config.views.size)}: crops read less memory; this changes the views"
    if config.views.blur_probability and config.views.size <= 32:
        yield "views.blur_probability = 0: as the paper does on small images; this changes the views"


def _on_transfer(config: DoctorConfig, split: SplitIndex, findings: Findings) -> Iterator[str]:
    if findings.kept.canvases == "none":
        yield "data.canvas: a smaller canvas is copied faster"
        return
    wanted = size_text(canvas_bytes(split, config.data.canvas))
    if findings.kept.canvases == "disk":
        yield f"data.cache = memory: canvases, {wanted}, are gathered from a mapped file; memory is faster"
    if findings.device == "cuda":
        yield (
            f"free memory on the device: canvases, {wanted}, lie on the host unless they fit into an eighth of what is "
            "free there"
        )
    yield "data.canvas: a smaller canvas is gathered faster; this changes the views"


def _on_step(config: DoctorConfig, findings: Findings) -> Iterator[str]:
    on_cuda = findings.device == "cuda"
    knows_bf16 = native_precision(findings.device) == "bf16"
    if config.precision == "bf16" and not knows_bf16:
        yield "precision = fp32: this CPU has no instructions for bf16 and emulates it, perhaps several times as slowly"
    if config.precision == "fp32":
        if knows_bf16:
            yield "precision = bf16: half the memory traffic; ResNets ran 2.4 times as fast with it on such CPUs"
        if on_cuda and not config.tf32:
            yield "tf32 = true: if it has to be fp32, inputs of its products rounded to 10 bits"
        if not on_cuda and not knows_bf16 and not config.channels_last:
            yield (
                "channels_last = true: ResNets in float32 ran 1.3 times as fast with it on such CPUs; BatchNorm's sums "
                "lose three digits"
            )
    elif config.channels_last is False:
        yield "channels_last = true: the layout in which low-precision convolutions are fast"
    yield from _on_threads(config, findings)
    if not config.compile:
        yield "compile = true: fuses the encoder's small operations; costs a minute or more at the start"
    if config.micro_batch:
        yield f"micro_batch: {config.micro_batch} costs a second forward pass; a larger one, or 0, if memory allows"
    if config.checkpoint_activations:
        yield "checkpoint_activations = false: costs a second forward pass; if memory allows"
    if on_cuda and not config.cudnn_benchmark:
        yield "cudnn_benchmark = true: lets cuDNN choose its fastest convolutions"
    if on_cuda and config.global_batch // findings.world_size < 128:
        yield (
            f"global_batch: {config.global_batch // findings.world_size} images a rank leave a GPU's units idle; more "
            "fill them (this changes the run: the learning rate follows)"
        )
    if findings.diagnosis.main.phase.wait_share < STARVED_SHARE:
        yield "nothing in the data plane: the loader keeps up. More ranks, a faster device or a smaller encoder remain"


def _on_all_reduce(config: DoctorConfig, findings: Findings) -> Iterator[str]:
    size = findings.gradient_bytes / 2**20
    if config.ddp.comm_hook == "none":
        yield f"ddp.comm_hook = bf16: sends half of the {size:.0f} MiB a step; k ranks then no longer equal one exactly"
    other = config.ddp.bucket_mb * 2 if size > 4 * config.ddp.bucket_mb else max(1, config.ddp.bucket_mb // 4)
    yield (
        f"ddp.bucket_mb = {other}: buckets are of {config.ddp.bucket_mb} MiB; larger ones suit slow starts of a "
        "transfer, smaller ones begin earlier in backward. Try both"
    )
    if not config.ddp.static_graph and not config.micro_batch:
        yield "ddp.static_graph = true: lets DDP plan ahead"
    yield "a larger global_batch: the same bytes travel for more images (changes the run: the learning rate follows)"
    yield "a faster link between ranks: NVLink within a node, InfiniBand or RoCE between (NCCL_DEBUG=INFO tells which)"


def _on_threads(config: DoctorConfig, findings: Findings) -> Iterator[str]:
    cores = max(1, len(os.sched_getaffinity(0)) // findings.ranks_on_node)
    if findings.device == "cpu" and 0 < config.cpu_threads < cores:
        yield f"cpu_threads = 0: torch has {config.cpu_threads} threads, and this rank {cores} cores"


def _keep_canvases(config: DoctorConfig, split: SplitIndex, findings: Findings, gain: str) -> Iterator[str]:
    if findings.kept.canvases == "none" and config.views.crop == "canvas":
        wanted = size_text(canvas_bytes(split, config.data.canvas))
        yield (
            f"data.cache = disk: keeps decoded canvases, {wanted}, in data.cache_dir (or memory, if each rank has so "
            f"much); {gain}"
        )


def _store_smaller(config: DoctorConfig, split: SplitIndex, gain: str) -> str:
    side = config.data.canvas
    return (
        f"smaller images: `python -m pipelines.build_shards reshuffle {split.location} --resize canvas:{side} --output "
        f"DIR`; stored images have {_pixels_ratio(config, split):.1f} times the pixels of the canvas, and {gain}"
    )


def _pixels_ratio(config: DoctorConfig, split: SplitIndex) -> float:
    pixels = split.samples["height"].astype(float) * split.samples["width"]
    return float(pixels.mean().item() / config.data.canvas**2)


def _rounded(side: float) -> int:
    return math.ceil(side / 16) * 16
