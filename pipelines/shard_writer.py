"""Which sample goes into which shard, and writing one shard: tar, DALI's index and our records.

Shards are planned before the first is written and depend on nothing but their plan, so that they can be written in any
order.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np
import numpy.typing as npt

from pipelines.hashing import hash64
from pipelines.images import BadImageError, CheckedImage, check_image
from pipelines.manifest import INDEX_DTYPE, UNLABELLED, IndexArray
from pipelines.sources import Fault, Item, Source, split_word

TAR_BLOCK_BYTES = 512
END_BYTES = 1_024 + 10_240
"""At most: the end mark, and zeros up to a multiple of 10,240."""
MAX_IMAGE_BYTES = 1 << 28
IDX_VERSION = "v1.2"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """The samples of one shard."""

    split: str
    number: int
    first: int
    """Position of its first sample in the shuffled split."""
    items: tuple[Item, ...]

    @property
    def stem(self) -> str:
        """File name without suffix."""
        return f"{self.split}-{self.number:06d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenShard:
    """What became of a plan; without samples there is no file."""

    plan: ShardPlan
    bytes: int
    sha256: str
    records: IndexArray
    """INDEX_DTYPE; `shard` is the plan's number."""
    histogram: npt.NDArray[np.int64]
    """(3, 256) pixel counts by channel and value."""
    faults: list[Fault]


def plan_shards(source: Source, split: str, seed: int, max_count: int, max_size: int) -> list[ShardPlan]:
    """Shuffle a split and cut it into shards.

    Args:
        source: where the items come from.
        split: one of its splits.
        seed: of the order, in [0, 2^64).
        max_count: samples per shard.
        max_size: bytes per shard, which only a shard of a single sample exceeds. Reckoned from upper bounds.
    """
    items = [item for item in source.items if item.split == split]
    order = np.argsort(hash64(seed, split_word(split), np.arange(len(items))), kind="stable")
    plans: list[ShardPlan] = []
    chosen: list[Item] = []
    first, size = 0, END_BYTES
    for item in (items[place] for place in order):
        item_size = _sample_bytes_bound(item, source.classes)
        if chosen and (len(chosen) == max_count or size + item_size > max_size):
            plans.append(ShardPlan(split=split, number=len(plans), first=first, items=tuple(chosen)))
            first, chosen, size = first + len(chosen), [], END_BYTES
        chosen.append(item)
        size += item_size
    plans.append(ShardPlan(split=split, number=len(plans), first=first, items=tuple(chosen)))
    return plans


def write_shard(plan: ShardPlan, source: Source, directory: Path, tick: Callable[[], object]) -> WrittenShard:
    """Write `STEM.tar` and `STEM.idx`, leaving out images that fail the check.

    Args:
        plan: the samples.
        source: reads them; its items are not looked at.
        directory: where to write.
        tick: called after each sample, for a progress bar.
    """
    import webdataset

    tar_path, idx_path = directory / f"{plan.stem}.tar", directory / f"{plan.stem}.idx"
    records: list[tuple[int, ...]] = []
    idx_lines: list[str] = []
    faults: list[Fault] = []
    histogram = np.zeros((3, 256), dtype=np.int64)
    with tar_path.open("wb") as file:
        stream = _HashedStream(file)
        # Time, owner and mode are fixed so that the same samples make the same bytes.
        with webdataset.TarWriter(stream, user="root", group="root", mode=0o644, mtime=0, encoder=False) as writer:
            for position, item in enumerate(plan.items, plan.first):
                try:
                    image_bytes = _read(source, item)
                    image = check_image(image_bytes)
                except BadImageError as error:
                    faults.append(Fault(item.name, str(error)))
                    continue
                finally:
                    tick()
                key = f"{plan.split}-{position:08d}"
                members = _members(item, image_bytes, image, source.classes)
                offsets = _member_offsets(members, start=writer.tarstream.offset)
                writer.write({"__key__": key, **members})
                idx_lines.append(
                    " ".join(f"{name} {offsets[name]} {len(members[name])} {key}.{name}" for name in sorted(members))
                )
                records.append(_record(plan, item, image_bytes, image, offset=offsets[image.extension]))
                histogram += image.histogram
    if records:
        idx_path.write_text("\n".join([f"{IDX_VERSION} {len(records)}", *idx_lines, ""]))
    else:
        tar_path.unlink()
    return WrittenShard(
        plan=plan,
        bytes=stream.bytes,
        sha256=stream.sha256.hexdigest(),
        records=np.array(records, dtype=INDEX_DTYPE),
        histogram=histogram,
        faults=faults,
    )


def _read(source: Source, item: Item) -> bytes:
    if item.size > MAX_IMAGE_BYTES:
        raise BadImageError(f"{item.size} bytes; at most {MAX_IMAGE_BYTES} are allowed")
    try:
        return source.read(item)
    except OSError as error:  # without the path, which differs between machines
        raise BadImageError(f"cannot be read: {error.strerror}") from None


def _members(item: Item, image_bytes: bytes, image: CheckedImage, classes: tuple[str, ...]) -> dict[str, bytes]:
    description: dict[str, object] = {"name": item.name, "height": image.height, "width": image.width}
    members = {image.extension: image_bytes}
    if item.label != UNLABELLED:
        description["class"] = classes[item.label]
        members["cls"] = str(item.label).encode()
    return {**members, "json": json.dumps(description).encode()}


def _member_offsets(members: dict[str, bytes], start: int) -> dict[str, int]:
    """Where the content of each member will lie; TarWriter sorts members by name."""
    offsets = {}
    for name in sorted(members):
        offsets[name] = start + TAR_BLOCK_BYTES
        start += _member_bytes(len(members[name]))
    return offsets


def _member_bytes(size: int) -> int:
    return TAR_BLOCK_BYTES + -(-size // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES


def _sample_bytes_bound(item: Item, classes: tuple[str, ...]) -> int:
    class_name = "" if item.label == UNLABELLED else classes[item.label]
    json_bytes = len(json.dumps([item.name, class_name])) + 64  # 64 hold the field names and any height and width
    return _member_bytes(item.size) + _member_bytes(json_bytes) + _member_bytes(1)


def _record(plan: ShardPlan, item: Item, image_bytes: bytes, image: CheckedImage, offset: int) -> tuple[int, ...]:
    fields = {
        "shard": plan.number,
        "offset": offset,
        "size": len(image_bytes),
        "crc32": crc32(image_bytes),
        "label": item.label,
        "height": image.height,
        "width": image.width,
    }
    return tuple(fields[name] for name in INDEX_DTYPE.names or ())


class _HashedStream:
    """A file that is written once, from front to back, and hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.bytes += len(data)
        return self.file.write(data)
