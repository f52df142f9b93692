"""Shards as others write them, damaged or not, without a manifest."""

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from raw_images import encoded

from pipelines.manifest import open_split

Members = Sequence[tuple[str, bytes]]
"""Names and contents, in order; a name may come twice."""


def sample(key: str, label: int | None = 0, image: bytes | None = None) -> list[tuple[str, bytes]]:
    """A good sample: KEY.jpg, KEY.cls unless the label is None, KEY.json."""
    members = [(f"{key}.jpg", encoded(zlib.crc32(key.encode())) if image is None else image)]
    if label is not None:
        members.append((f"{key}.cls", str(label).encode()))
    return [*members, (f"{key}.json", json.dumps({"filename": f"{key}.JPEG"}).encode())]


def samples(*keys: str, classes: int = 2) -> list[tuple[str, bytes]]:
    """Good samples with labels in turn."""
    return [member for number, key in enumerate(keys) for member in sample(key, number % classes)]


def tar_of(members: Members, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write_shard(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_of(members))
    return path


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(bytes(10))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, pixels, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg_that_claims(width: int, height: int) -> bytes:
    """A JPEG whose frame header lies."""
    data = bytearray(encoded(1, height=16, width=16))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def stored_images(directory: Path, split_name: str = "train") -> list[tuple[bytes, int]]:
    """Encoded image and label of every sample, read as the index says."""
    split = open_split(directory, split_name)
    found = []
    for record in split.samples:
        with Path(split.shard_location(int(record["shard"]))).open("rb") as shard:
            shard.seek(int(record["offset"]))
            image = shard.read(int(record["size"]))
        assert zlib.crc32(image) == record["crc32"]
        found.append((image, int(record["label"])))
    return found
