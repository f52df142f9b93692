"""Checks every byte of a data set directory: shards, DALI's indices and our own against each other and the manifest."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt

from pipelines.images import BadImageError, channel_statistics, check_image
from pipelines.manifest import INDEX_DTYPE, MANIFEST_NAME, UNLABELLED, IndexArray, Shard, Split, read_manifest

STATISTICS_TOLERANCE = 1e-3
"""JPEG decoders may differ by a level here and there; a wrong data set differs by more."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """One file of a sample in a shard."""

    offset: int
    data: bytes


def verify(directory: Path) -> int:
    """Print a line per fault and per split, and `ok` if there is no fault.

    Returns:
        0, or 1 if there are faults.

    Raises:
        DataError: the manifest cannot be read.
    """
    manifest = read_manifest(directory)
    faults = 0
    for name, split in manifest.splits.items():
        histogram = np.zeros((3, 256), dtype=np.int64)
        found = 0
        for fault in _split_faults(directory, split, manifest.classes, histogram):
            print(fault)
            found += 1
        if name == "train" and histogram.any() and not found and _statistics_differ(manifest.statistics, histogram):
            print(f"{MANIFEST_NAME}: statistics are not those of the train split")
            found += 1
        print(f"{name}: {split.samples:,} samples in {len(split.shards)} shards, {found} faults")
        faults += found
    if not faults:
        print("ok")
    return int(faults > 0)


def _split_faults(
    directory: Path, split: Split, classes: tuple[str, ...], histogram: npt.NDArray[np.int64]
) -> Iterator[str]:
    try:
        data = (directory / split.index_file).read_bytes()
        records: IndexArray = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        yield f"{split.index_file}: cannot be read ({error})"
        return
    if records.dtype != INDEX_DTYPE or records.ndim != 1:
        yield f"{split.index_file}: not an index"
        return
    if hashlib.sha256(data).hexdigest() != split.index_sha256:
        yield f"{split.index_file}: sha256 differs from {MANIFEST_NAME}"
    if not len(records) == split.samples == sum(shard.samples for shard in split.shards):
        yield f"{split.index_file}: {len(records)} samples, {MANIFEST_NAME} says {split.samples}"
    if (records["shard"][1:] < records["shard"][:-1]).any():
        yield f"{split.index_file}: samples are not in the order of the shards"
    for number, shard in enumerate(split.shards):
        yield from _shard_faults(directory, shard, records[records["shard"] == number], classes, histogram)


def _shard_faults(
    directory: Path, shard: Shard, records: IndexArray, classes: tuple[str, ...], histogram: npt.NDArray[np.int64]
) -> Iterator[str]:
    path = directory / shard.file
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        yield f"{shard.file}: {error.strerror}"
        return
    if size != shard.bytes:
        yield f"{shard.file}: {size} bytes, {MANIFEST_NAME} says {shard.bytes}"
    if digest != shard.sha256:
        yield f"{shard.file}: sha256 differs from {MANIFEST_NAME}"

    samples = 0
    idx_lines = []
    try:
        for key, members in _tar_samples(path):
            idx_lines.append(_idx_line(key, members))
            if samples < len(records):
                for what in _sample_faults(members, records[samples], classes, histogram):
                    yield f"{shard.file}: {key}: {what}"
            samples += 1
    except (tarfile.TarError, OSError) as error:
        yield f"{shard.file}: cannot be read after {samples} samples ({error})"
    if not samples == len(records) == shard.samples:
        yield f"{shard.file}: {samples} samples, the index has {len(records)}, {MANIFEST_NAME} says {shard.samples}"
    yield from _idx_faults(path.with_suffix(".idx"), idx_lines)


def _tar_samples(path: Path) -> Iterator[tuple[str, dict[str, TarMember]]]:
    """Consecutive members with one key, by the rest of their names."""
    key, members = "", dict[str, TarMember]()
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            stream = archive.extractfile(member)
            member_key, _, extension = member.name.partition(".")
            if members and (member_key != key or extension in members):
                yield key, members
                members = {}
            key = member_key
            members[extension] = TarMember(member.offset_data, stream.read() if stream else b"")
    if members:
        yield key, members


def _idx_line(key: str, members: dict[str, TarMember]) -> str:
    return " ".join(f"{name} {member.offset} {len(member.data)} {key}.{name}" for name, member in members.items())


def _idx_faults(path: Path, expected: list[str]) -> Iterator[str]:
    try:
        header, *lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        yield f"{path.name}: cannot be read ({error})"
        return
    if header != f"v1.2 {len(expected)}":
        yield f"{path.name}: begins with '{header[:40]}', expected 'v1.2 {len(expected)}'"
    if len(lines) != len(expected):
        yield f"{path.name}: {len(lines)} samples, the shard has {len(expected)}"
    for line, right in zip(lines, expected, strict=False):
        if line != right:
            key = right.rpartition(" ")[2].partition(".")[0]
            yield f"{path.name}: {key}: members or offsets are not those of the shard"


def _sample_faults(
    members: dict[str, TarMember], record: np.void, classes: tuple[str, ...], histogram: npt.NDArray[np.int64]
) -> Iterator[str]:
    label, height, width = int(record["label"]), int(record["height"]), int(record["width"])
    if "cls" in members:
        if members["cls"].data != str(label).encode():
            yield f"label {members['cls'].data[:20].decode('ascii', 'replace')}, the index says {label}"
        if not 0 <= label < len(classes):
            yield f"label {label} is not in 0 ... {len(classes) - 1}"
    elif label != UNLABELLED or classes:
        yield f"no label, the index says {label}"

    extensions = [name for name in members if name in ("jpg", "png")]
    if len(extensions) != 1:
        yield f"{len(extensions)} images, expected one"
        return
    image = members[extensions[0]]
    for field, value in (("offset", image.offset), ("size", len(image.data)), ("crc32", crc32(image.data))):
        if record[field] != value:
            yield f"{field} {value}, the index says {record[field]}"
    try:
        checked = check_image(image.data)
    except BadImageError as error:
        yield f"bad image: {error}"
        return
    histogram += checked.histogram
    if (checked.height, checked.width) != (height, width):
        yield f"height x width {checked.height} x {checked.width}, the index says {height} x {width}"
    if checked.extension != extensions[0]:
        yield f"the image is a {checked.extension}, its name says {extensions[0]}"
    if not _describes(members, height, width):
        yield "its json does not agree with the index"


def _describes(members: dict[str, TarMember], height: int, width: int) -> bool:
    try:
        description = json.loads(members["json"].data)
        return bool((description["height"], description["width"]) == (height, width))
    except (KeyError, ValueError, TypeError):
        return False


def _statistics_differ(statistics: dict[str, list[float]], histogram: npt.NDArray[np.int64]) -> bool:
    mean, std = channel_statistics(histogram)
    try:
        stated = np.array([statistics["mean"], statistics["std"]], dtype=np.float64)
        return not np.allclose(stated, [mean, std], rtol=0, atol=STATISTICS_TOLERANCE)
    except (KeyError, TypeError, ValueError):
        return True
