"""A data set directory as a source: its shards, ours or foreign ones, are written anew in another order or form."""

import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.build.items import SPLITS, Item, Items
from pipelines.build.sources import Source, read_stored
from pipelines.build.stored_image import Storage
from pipelines.errors import DataError
from pipelines.manifest import Manifest, open_split, read_manifest
from pipelines.remote.locations import is_remote


def dataset_source(path: Path, storage: Storage) -> Source:
    """List the images of a data set, by the order in its index.

    Splits, labels, class names and the metric stay, and so do the heights and widths of the originals where images were
    resized. Other members of foreign samples are dropped.

    Raises:
        DataError: it does not match its manifest, is remote, has other splits than ours, or was stretched to a canvas
            and is to be resized as if it had its aspect.
    """
    manifest = read_manifest(path)
    if other := sorted(set(manifest.splits) - set(SPLITS)):
        raise DataError(f"{path}: has a split '{other[0]}'; expected {', '.join(SPLITS)}")
    if "train" not in manifest.splits:
        raise DataError(f"{path}: has no train split")
    if manifest.resize.startswith("canvas") and storage.resize.startswith("short"):
        raise DataError(
            f"{path}: its images were stretched ({manifest.resize}), so {storage.resize} would distort them"
        )
    return Source(
        name=manifest.name,
        classes=manifest.classes,
        items=Items(item for name in SPLITS if name in manifest.splits for item in _split_items(path, manifest, name)),
        read=read_stored,
        faults=[],
        resize=manifest.resize,
        metric=str(manifest.made.get("metric", "")),
    )


@dataclass(frozen=True, slots=True)
class _Shard:
    """An open shard."""

    path: str
    descriptor: int

    def member(self, offset: int) -> tarfile.TarInfo | None:
        """The member whose header lies at an offset."""
        try:
            header = os.pread(self.descriptor, tarfile.BLOCKSIZE, offset)
            return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.TarError:
            return None


def _split_items(path: Path, manifest: Manifest, name: str) -> Iterator[Item]:
    split = open_split(path, name)
    is_resized = manifest.resize != "none"
    first = 0
    for number, shard in enumerate(split.shards):
        location = split.shard_location(number)
        if is_remote(location):
            raise DataError(f"{location}: only local shards can be written anew; copy them to a disk first")
        with _opened(location) as source:
            for record in split.samples[first : first + shard.samples]:
                offset, size = int(record["offset"]), int(record["size"])
                yield Item(
                    name,
                    int(record["label"]),
                    _name(source, offset, size),
                    location,
                    offset,
                    size,
                    int(record["height"]) if is_resized else 0,
                    int(record["width"]) if is_resized else 0,
                    int(record["crc32"]),
                )
        first += shard.samples


@contextmanager
def _opened(path: str) -> Iterator[_Shard]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _Shard(path, descriptor)
    finally:
        os.close(descriptor)


def _name(shard: _Shard, offset: int, size: int) -> str:
    """Name in the source of our own shards, which their JSON tells, or else that of the image in the tar."""
    image = shard.member(offset - tarfile.BLOCKSIZE)
    if image is None:
        return f"byte {offset} of {shard.path.rpartition('/')[2]}"
    following = offset + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    description = shard.member(following)
    if description is None or description.name != f"{image.name.rpartition('.')[0]}.json":
        return image.name
    try:
        content = json.loads(os.pread(shard.descriptor, description.size, following + tarfile.BLOCKSIZE))
    except ValueError:
        return image.name
    name = content.get("name") if isinstance(content, dict) else None
    return name if isinstance(name, str) and name else image.name
