"""Checks every byte of one shard against the index, the manifest and DALI's index."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from zlib import crc32

import numpy as np
import numpy.typing as npt

from pipelines.build.images import BadImageError, CheckedImage, check_image
from pipelines.build.stored_image import Storage
from pipelines.manifest import MANIFEST_NAME, UNLABELLED, IndexArray, Shard
from pipelines.remote.locations import join, read_file
from pipelines.tools.foreign_sample import as_label, description, label_texts
from pipelines.tools.tar_samples import TarSample, kind_of, most_bytes, open_shard, printable, tar_samples
from pipelines.tools.tar_stream import BrokenTarError, TarStream, tar_members

ROUNDING_PIXELS = 1
"""Of the long side of an image that was resized by its short side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyFault:
    """Something that is not as it should be."""

    file: str
    key: str = ""
    """Of the sample, if it is one."""
    what: str

    def __str__(self) -> str:
        return printable(": ".join(filter(None, (self.file, self.key, self.what))))


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardToVerify:
    """A shard and what is said of it."""

    directory: str
    shard: Shard
    records: IndexArray
    """Of its samples."""
    classes: tuple[str, ...]
    resize: str
    is_whole: bool
    """Whether the records are to be all its samples."""
    is_foreign: bool
    """Whether others made it: then its json means nothing to us and a PNG may be named jpg, as in ImageNet."""


@dataclass(kw_only=True, slots=True)
class VerifiedShard:
    """What was found."""

    faults: list[VerifyFault] = field(default_factory=list)
    histogram: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 256), dtype=np.int64))
    """(3, 256) pixel counts by channel and value."""


def verify_shard(work: ShardToVerify) -> VerifiedShard:
    """Read a shard from front to back."""
    found, file = VerifiedShard(), work.shard.file
    idx_lines: list[str] = []
    try:
        with open_shard(join(work.directory, file)) as opened:
            stream = TarStream(opened, hashed=True)
            found.faults += _samples(work, stream, idx_lines, found.histogram)
            stream.read_rest()
    except OSError as error:
        found.faults = [VerifyFault(file=file, what=error.strerror or str(error))]
        return found
    whole = []
    if stream.position != work.shard.bytes:
        whole.append(f"{stream.position} bytes, {MANIFEST_NAME} says {work.shard.bytes}")
    if stream.sha256.hexdigest() != work.shard.sha256:
        whole.append(f"sha256 differs from {MANIFEST_NAME}")
    found.faults = [*(VerifyFault(file=file, what=what) for what in whole), *found.faults]
    if "/" not in file:  # those that lie elsewhere belong to others, with the indices beside them
        found.faults += _idx_faults(work.directory, str(PurePosixPath(file).with_suffix(".idx")), idx_lines)
    return found


def _samples(
    work: ShardToVerify, stream: TarStream, idx_lines: list[str], histogram: npt.NDArray[np.int64]
) -> Iterator[VerifyFault]:
    """Faults of the samples; adds their lines of DALI's index and their pixels."""
    file, records = work.shard.file, work.records
    row_at = {offset: row for row, offset in enumerate(records["offset"].tolist())}
    if len(row_at) < len(records):
        yield VerifyFault(file=file, what=f"{len(records) - len(row_at)} samples of the index lie where others lie")
    seen, broken = 0, None
    try:
        for sample in tar_samples(tar_members(stream, most_bytes)):
            row = seen if work.is_whole else _row_of(sample, row_at)
            if row is None:
                continue
            seen += 1
            idx_lines.append(sample.idx_line())
            if row < len(records):
                for what in _sample_faults(work, sample, records[row], histogram):
                    yield VerifyFault(file=file, key=sample.key, what=what)
    except BrokenTarError as error:
        broken = error
    if not seen == len(records) == work.shard.samples:
        what = f"{seen} samples, the index has {len(records)}, {MANIFEST_NAME} says {work.shard.samples}"
        yield VerifyFault(file=file, what=what)
    elif not work.is_whole:
        return  # damage behind the samples that are used
    if broken:
        yield VerifyFault(file=file, what=f"cannot be read after {seen} samples ({broken})")


def _row_of(sample: TarSample, row_at: dict[int, int]) -> int | None:
    return next((row_at[member.offset] for member in sample.members.values() if member.offset in row_at), None)


def _sample_faults(
    work: ShardToVerify, sample: TarSample, record: np.void, histogram: npt.NDArray[np.int64]
) -> Iterator[str]:
    yield from _label_faults(work, sample, int(record["label"]))
    extensions = sample.images
    if len(extensions) != 1:
        yield f"{len(extensions)} images, expected one"
        return
    image = sample.members[extensions[0]]
    if image.content is None:
        yield f"its {extensions[0]} is {image.problem}"
        return
    for name, value in (("offset", image.offset), ("size", image.size), ("crc32", crc32(image.content))):
        if record[name] != value:
            yield f"{name} {value}, the index says {record[name]}"
    try:
        checked = check_image(image.content)
    except BadImageError as error:
        yield f"bad image: {error}"
        return
    histogram += checked.histogram
    yield from _size_faults(work.resize, checked, int(record["height"]), int(record["width"]))
    if work.is_foreign:
        return
    if checked.extension != kind_of(extensions[0]):
        yield f"the image is a {checked.extension}, its name says {extensions[0]}"
    described = description(sample)
    if (described.get("height"), described.get("width")) != (record["height"], record["width"]):
        yield "its json does not agree with the index"


def _label_faults(work: ShardToVerify, sample: TarSample, label: int) -> Iterator[str]:
    texts = label_texts(sample)
    if not texts or (label == UNLABELLED and not work.classes):
        if label != UNLABELLED or work.classes:
            yield f"no label, the index says {label}"
        return
    if as_label(texts[0]) != label:
        yield f"label {texts[0][:20]}, the index says {label}"
    if not 0 <= label < len(work.classes):
        yield f"label {label} is not in 0 ... {len(work.classes) - 1}"


def _size_faults(resize: str, checked: CheckedImage, height: int, width: int) -> Iterator[str]:
    expected = Storage(resize=resize).size_after(height, width)
    if resize == "none" and (checked.height, checked.width) != expected:
        yield f"height x width {checked.height} x {checked.width}, the index says {height} x {width}"
        return
    allowed = ROUNDING_PIXELS if resize.startswith("short") else 0
    if max(abs(checked.height - expected[0]), abs(checked.width - expected[1])) > allowed:
        yield (
            f"stored as {checked.height} x {checked.width}, {resize} makes {expected[0]} x {expected[1]} of the "
            f"{height} x {width} in the index"
        )


def _idx_faults(directory: str, name: str, expected: list[str]) -> Iterator[VerifyFault]:
    try:
        header, *lines = read_file(join(directory, name)).decode().splitlines() or [""]
    except (OSError, ValueError) as error:
        yield VerifyFault(file=name, what=f"cannot be read ({error})")
        return
    if header != f"v1.2 {len(expected)}":
        yield VerifyFault(file=name, what=f"begins with '{header[:40]}', expected 'v1.2 {len(expected)}'")
    if len(lines) != len(expected):
        yield VerifyFault(file=name, what=f"{len(lines)} samples, the shard has {len(expected)}")
    for line, right in zip(lines, expected, strict=False):
        if line != right:
            key = right.rpartition(" ")[2].partition(".")[0]
            yield VerifyFault(file=name, key=key, what="members or offsets are not those of the shard")
