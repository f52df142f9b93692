"""Writing one shard: tar, DALI's index and our records. It depends on nothing but its plan."""

import hashlib
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np
import numpy.typing as npt

from pipelines.build.images import BadImageError
from pipelines.build.items import Item
from pipelines.build.sources import Fault
from pipelines.build.stored_image import Storage, StoredImage, stored_image
from pipelines.manifest import INDEX_DTYPE, UNLABELLED, IndexArray

MAX_IMAGE_BYTES = 1 << 28
IDX_VERSION = "v1.2"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardWork:
    """What a process needs to write one shard, and no more."""

    stem: str
    """File name without suffix."""
    split: str
    number: int
    first: int
    """Position of its first sample in the shuffled split."""
    items: Sequence[Item]
    classes: tuple[str, ...]
    read: Callable[[Item], bytes]
    storage: Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenShard:
    """What became of it; without samples there is no file."""

    bytes: int
    sha256: str
    idx_sha256: str
    records: IndexArray
    """INDEX_DTYPE; `shard` is the plan's number."""
    histogram: npt.NDArray[np.int64]
    """(3, 256) pixel counts by channel and value."""
    converted: int
    """Images whose colours had to be settled, see `stored_image`."""
    faults: list[Fault]


def write_shard(work: ShardWork, directory: Path, tick: Callable[[], object]) -> WrittenShard:
    """Write `STEM.tar` and `STEM.idx`, leaving out images that are bad.

    Args:
        work: the samples.
        directory: where to write.
        tick: called after each sample, for a progress bar.
    """
    tar_path, idx_path = directory / f"{work.stem}.tar", directory / f"{work.stem}.idx"
    records: list[tuple[int, ...]] = []
    idx_lines: list[str] = []
    faults: list[Fault] = []
    converted = 0
    histogram = np.zeros((3, 256), dtype=np.int64)
    with tar_path.open("wb") as file:
        shard = _TarWriter(file)
        for position, item in enumerate(work.items, work.first):
            try:
                image = stored_image(_read(work, item), work.storage)
            except BadImageError as error:
                faults.append(Fault(item.name, str(error), item.split))
                continue
            finally:
                tick()
            key = f"{work.split}-{position:08d}"
            members = _members(work, item, image)
            offsets = shard.add(key, members)
            idx_lines.append(
                " ".join(f"{name} {offset} {len(members[name])} {key}.{name}" for name, offset in offsets.items())
            )
            records.append(_record(work, item, image, offset=offsets[image.extension]))
            histogram += image.histogram
            converted += image.is_converted
        shard.end()
    idx = "\n".join([f"{IDX_VERSION} {len(records)}", *idx_lines, ""]).encode()
    if records:
        idx_path.write_bytes(idx)
    else:
        tar_path.unlink()
    return WrittenShard(
        bytes=shard.bytes,
        sha256=shard.sha256.hexdigest(),
        idx_sha256=hashlib.sha256(idx).hexdigest(),
        records=np.array(records, dtype=INDEX_DTYPE),
        histogram=histogram,
        converted=converted,
        faults=faults,
    )


def _read(work: ShardWork, item: Item) -> bytes:
    if item.size > MAX_IMAGE_BYTES:
        raise BadImageError(f"{item.size} bytes; at most {MAX_IMAGE_BYTES} are allowed")
    try:
        data = work.read(item)
    except OSError as error:  # without the path, which differs between machines
        raise BadImageError(f"cannot be read: {error.strerror}") from None
    if item.crc32 not in (-1, crc32(data)):
        raise BadImageError("its checksum is not the one in the index")
    return data


def _members(work: ShardWork, item: Item, image: StoredImage) -> dict[str, bytes]:
    height, width = _original_size(item, image)
    description: dict[str, object] = {"name": item.name, "height": height, "width": width}
    members = {image.extension: image.data}
    if item.label != UNLABELLED:
        description["class"] = work.classes[item.label]
        members["cls"] = str(item.label).encode()
    return {**members, "json": json.dumps(description).encode()}


def _record(work: ShardWork, item: Item, image: StoredImage, offset: int) -> tuple[int, ...]:
    height, width = _original_size(item, image)
    fields = {
        "shard": work.number,
        "offset": offset,
        "size": len(image.data),
        "crc32": crc32(image.data),
        "label": item.label,
        "height": height,
        "width": width,
    }
    return tuple(fields[name] for name in INDEX_DTYPE.names or ())


def _original_size(item: Item, image: StoredImage) -> tuple[int, int]:
    return (item.height or image.height, item.width or image.width)


# Mode 0644, modified in 1970, by root: equal samples make equal bytes.
_OWNED = tarfile.TarInfo()
_OWNED.uname = _OWNED.gname = "root"
_HEADER = _OWNED.tobuf(tarfile.USTAR_FORMAT)
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 155)
_HEADER_SUM = sum(_HEADER) - sum(_HEADER[_SIZE]) - sum(_HEADER[148:156]) + 8 * ord(" ")


class _TarWriter:
    """A tar that is hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def add(self, key: str, members: dict[str, bytes]) -> dict[str, int]:
        """Write a sample's members, sorted by extension, and return the offset of each one's content."""
        blocks, offsets, end = list[bytes](), dict[str, int](), self.bytes
        for extension in sorted(members):
            data = members[extension]
            padding = bytes(-len(data) % tarfile.BLOCKSIZE)
            blocks += (_header(f"{key}.{extension}", len(data)), data, padding)
            offsets[extension] = end + tarfile.BLOCKSIZE
            end += tarfile.BLOCKSIZE + len(data) + len(padding)
        self._write(b"".join(blocks))
        return offsets

    def end(self) -> None:
        """Write the end mark, and zeros up to a whole record as every tar has."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self.bytes % tarfile.RECORDSIZE))

    def _write(self, data: bytes) -> None:
        self.sha256.update(data)
        self.bytes += len(data)
        self._file.write(data)


def _header(name: str, size: int) -> bytes:
    """A tar header of a short name: what TarInfo.tobuf makes of it, at a tenth of the cost."""
    header = bytearray(_HEADER)
    header[_NAME] = name.encode("ascii").ljust(100, b"\0")
    header[_SIZE] = b"%011o\0" % size
    checksum = _HEADER_SUM + sum(header[_NAME]) + sum(header[_SIZE])
    header[_CHECKSUM] = b"%06o\0" % checksum
    return bytes(header)
