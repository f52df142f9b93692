"""Which image goes into which shard: settled before the first shard is written, and nothing else decides its bytes."""

import hashlib
import json
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from pipelines.build.items import Items
from pipelines.build.sources import Source, split_word
from pipelines.build.stored_image import Storage
from pipelines.hashing import hash64

LAYOUT = 1
"""Of what a shard holds; another makes half-finished builds of earlier versions worthless."""

TAR_BLOCK_BYTES = 512
END_BYTES = 1_024 + 10_240
"""At most: the end mark, and zeros up to a multiple of 10,240."""

JPEG_BYTES_PER_PIXEL = 0.5
"""Of photographs at quality 95: 0.45 for whole ones, 0.47 for 256 x 256, measured on ImageNet."""
PNG_BYTES_PER_PIXEL = 2.0
"""1.76 on the same images."""
TYPICAL_ASPECT = 4 / 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """The samples of one shard."""

    split: str
    number: int
    first: int
    """Position of its first sample in the shuffled split."""
    rows: npt.NDArray[np.int64]
    """(samples,) positions in Source.items."""
    bytes: int
    """To be expected."""

    @property
    def stem(self) -> str:
        """File name without suffix."""
        return shard_stem(self.split, self.number)


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What decides, with the source, the bytes of all shards."""

    seed: int = 0
    """Of the order."""
    max_count: int = 5_000
    """Samples per shard."""
    max_size: int = 512_000_000
    """Bytes per shard, which only a shard of a single sample exceeds. Where images are encoded anew, their sizes are
    estimated."""
    storage: Storage = field(default_factory=Storage)


def plan_shards(source: Source, split: str, options: PlanOptions) -> list[ShardPlan]:
    """Shuffle a split and cut it into shards."""
    rows = source.items.rows_of(split)
    order = rows[np.argsort(hash64(options.seed, split_word(split), np.arange(len(rows))), kind="stable")]
    sizes = sample_bytes(source, options.storage)[order]
    plans: list[ShardPlan] = []
    first, total = 0, END_BYTES
    for position, size in enumerate(sizes.tolist()):
        if position > first and (position - first == options.max_count or total + size > options.max_size):
            plans.append(_plan(split, len(plans), first, order[first:position], total))
            first, total = position, END_BYTES
        total += size
    plans.append(_plan(split, len(plans), first, order[first:], total))
    return plans


def shard_stem(split: str, number: int) -> str:
    """File name of a shard, without suffix."""
    return f"{split}-{number:06d}"


def sample_bytes(source: Source, storage: Storage) -> npt.NDArray[np.int64]:
    """Bytes that each item takes up in a shard: a bound, or an estimate where images are encoded anew."""
    longest_class = max((len(json.dumps(name)) for name in source.classes), default=0)
    # In JSON a byte becomes six at most; 64 bytes hold the field names and any height and width.
    description = member_bytes(6 * source.items.name_bytes + longest_class + 64)
    label = member_bytes(np.array(1))
    return member_bytes(_image_bytes(source.items, storage)) + description + label


def member_bytes(size: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of a tar's member: a header, and content in whole blocks."""
    return TAR_BLOCK_BYTES + -(-size // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES


def shard_digest(plan: ShardPlan, source: Source, options: PlanOptions) -> str:
    """Hash of everything that decides a shard's bytes, but for the images' own."""
    content = [LAYOUT, asdict(options), source.resize, source.classes, plan.split, plan.number, plan.first]
    return hashlib.sha256((json.dumps(content) + source.items.digest(plan.rows)).encode()).hexdigest()


def _plan(split: str, number: int, first: int, rows: npt.NDArray[np.int64], size: int) -> ShardPlan:
    return ShardPlan(split=split, number=number, first=first, rows=rows, bytes=size)


def _image_bytes(items: Items, storage: Storage) -> npt.NDArray[np.int64]:
    kind, _, side = storage.resize.partition(":")
    per_pixel = PNG_BYTES_PER_PIXEL if storage.format == "png" else JPEG_BYTES_PER_PIXEL
    growth = PNG_BYTES_PER_PIXEL / JPEG_BYTES_PER_PIXEL if storage.format == "png" else 1
    encoded = (items.sizes * growth).astype(np.int64)
    if kind == "none":
        return encoded
    if kind == "canvas":
        return np.full(len(items), int(per_pixel * int(side) ** 2))
    return np.minimum(encoded, int(per_pixel * TYPICAL_ASPECT * int(side) ** 2))  # small ones stay as they are
