"""Is there room, and leave to write: for checkpoints, decoded canvases, copies of shards?"""

import errno
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from model.errors import ModelError
from ops.doctor.config import DoctorConfig
from ops.doctor.finding import Finding, doubtful, fine, wrong
from ops.doctor.hardware import memory_bytes
from ops.doctor.kept import canvas_bytes
from ops.doctor.size_text import size_text
from pipelines.manifest import SplitIndex
from pipelines.remote.locations import is_remote
from train.checkpoint_files import list_checkpoints
from train.distributed import environment_rank, ranks_on_node


@dataclass(frozen=True, kw_only=True)
class Need:
    """Room that the run will take."""

    purpose: str
    directory: Path
    bytes: int
    remedy: str


def check_disks(config: DoctorConfig, split: SplitIndex | None) -> list[Finding]:
    """Of the file systems of this node; needs that meet on one are added. Without a split only leave to write."""
    run_dir = Path(config.run_dir)
    if split is None:
        refused = unwritable(run_dir)
        return [refused or fine("disk", f"{run_dir}: can be written to; without the data its needs are unknown")]
    try:
        needs = [] if environment_rank() else [_checkpoints(config, split)]
    except ModelError as error:
        return [wrong("disk", f"the size of a checkpoint is unknown: {error}")]
    needs += _caches(config, split)
    refused_needs = {need.directory: refused for need in needs if (refused := unwritable(need.directory))}
    by_disk: dict[int, list[Need]] = {}
    for need in needs:
        if need.directory not in refused_needs:
            by_disk.setdefault(existing(need.directory).stat().st_dev, []).append(need)
    return [*refused_needs.values(), *(_room(together) for together in by_disk.values()), *_memory(config, split)]


def unwritable(directory: Path) -> Finding | None:
    """Try a file without a name, which leaves nothing behind, where the directory is or would be made."""
    place = existing(directory)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
            file.flush()
        if place != directory and place.joinpath(directory.relative_to(place).parts[0]).exists():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        return wrong("disk", f"{directory}: cannot be written to ({error.strerror}); name another directory")
    return None


def existing(directory: Path) -> Path:
    """The directory, or the nearest one above it that exists."""
    while not directory.is_dir():
        directory = directory.parent
    return directory


def checkpoint_bytes(config: DoctorConfig, split: SplitIndex) -> int:
    """Of one checkpoint: weights, the optimizer's state and the probe's, in float32."""
    from model.simclr import SimCLR

    model = SimCLR(config.encoder, config.head, config.views.size)
    weights: int = sum(4 * tensor.numel() for tensor in model.state_dict().values())
    learnt: int = sum(4 * parameter.numel() for parameter in model.parameters())
    momenta = 1 if config.optimizer.name in ("lars", "sgd") else 2
    classes = len(split.manifest.classes) if config.probe.enabled else 0
    probe = 3 * 4 * classes * (int(model.encoder.num_features) + 1)
    return weights + momenta * learnt + probe


def _checkpoints(config: DoctorConfig, split: SplitIndex) -> Need:
    directory = Path(config.run_dir)
    one = checkpoint_bytes(config, split)
    rules = config.checkpoint
    kept = rules.keep_last + rules.keep_best
    if rules.keep_every_epochs:
        kept += config.schedule.epochs // rules.keep_every_epochs
    missing = max(1, kept + 1 - len(list_checkpoints(directory / "checkpoints")))
    return Need(
        purpose=f"{missing} checkpoints of {size_text(one)}, the one being written among them",
        directory=directory,
        bytes=missing * one,
        remedy="free some, name another --run_dir, or keep fewer (checkpoint.keep_last, keep_every_epochs)",
    )


def _caches(config: DoctorConfig, split: SplitIndex) -> list[Need]:
    data, needs = config.data, []
    directory = Path(data.cache_dir).expanduser()
    if data.cache == "disk" and config.views.crop == "canvas":
        wanted = canvas_bytes(split, data.canvas) + 8 * len(split)
        there = sum(
            file.stat().st_size
            for file in (directory / "canvases").glob(f"*{split.manifest.fingerprint[:32]}-{data.canvas}-*")
        )
        remedy = "free some, name another --data.cache_dir, or set data.cache = none"
        needs.append(Need(purpose="decoded canvases", directory=directory, bytes=max(0, wanted - there), remedy=remedy))
    remote = [shard for number, shard in enumerate(split.shards) if is_remote(split.shard_location(number))]
    if remote and data.remote == "shards":
        wanted = min(sum(shard.bytes for shard in remote), data.shard_cache_bytes)
        there = sum((directory / "shards" / shard.sha256).is_file() * shard.bytes for shard in remote)
        remedy = "free some, name another --data.cache_dir, lower data.shard_cache_bytes, or set data.remote = ranges"
        needs.append(Need(purpose="copies of shards", directory=directory, bytes=max(0, wanted - there), remedy=remedy))
    return needs


def _room(needs: list[Need]) -> Finding:
    free = shutil.disk_usage(existing(needs[0].directory)).free
    wanted = sum(need.bytes for need in needs)
    purposes = " and ".join(f"{need.purpose}" for need in needs)
    what = f"{needs[0].directory}: {size_text(free)} free, {size_text(wanted)} wanted for {purposes}"
    return (
        fine("disk", what)
        if wanted <= free
        else wrong("disk", f"{what}; {max(needs, key=lambda need: need.bytes).remedy}")
    )


def _memory(config: DoctorConfig, split: SplitIndex) -> list[Finding]:
    """Canvases that are to be kept in memory, by every rank of the node."""
    if config.data.cache != "memory" or config.views.crop == "source":
        return []
    wanted, free = canvas_bytes(split, config.data.canvas) * ranks_on_node(), memory_bytes("MemAvailable")
    what = f"data.cache = memory: {size_text(wanted)} of canvases on this node, {size_text(free)} of memory are free"
    return [fine("disk", what) if wanted <= free else doubtful("disk", f"{what}; set data.cache = disk, or none")]
