"""Looks at single samples: a line about each, or the encoded image itself."""

import sys
from pathlib import Path
from zlib import crc32

import numpy as np

from pipelines.build.archives import read_at
from pipelines.errors import DataError
from pipelines.manifest import UNLABELLED, SplitIndex, open_split, read_manifest
from pipelines.remote.locations import is_remote
from pipelines.remote.ranged_reads import read_ranges
from pipelines.tools.sample_names import find_key, image_names
from pipelines.tools.tar_samples import printable, split_name


def print_samples(directory: str, *, wanted_split: str | None, limit: int | None) -> None:
    """Print split, id, key, class, height x width, bytes and shard of each sample, separated by tabs.

    Args:
        directory: of the data set, or its URL.
        wanted_split: None lists all splits.
        limit: samples at most; None lists all.

    Raises:
        DataError: the data set or a shard cannot be read.
    """
    left = sys.maxsize if limit is None else limit
    for split in _splits(directory, wanted_split):
        rows = np.arange(min(left, len(split)))
        for row, name in zip(rows.tolist(), image_names(split, rows), strict=True):
            print(_line(split, row, name))
        left -= len(rows)


def write_image(directory: str, key: str, *, is_id: bool, wanted_split: str | None, output: Path | None) -> None:
    """Write the encoded image of a sample, after its bytes are checked.

    Args:
        directory: of the data set, or its URL.
        key: of the sample, or its number as text.
        is_id: whether it is the number.
        wanted_split: None looks for a key in all splits, for a number in train.
        output: None writes to standard output.

    Raises:
        DataError: there is no such sample, its bytes are damaged, or standard output is a terminal.
    """
    if output is None and sys.stdout.isatty():
        raise DataError("standard output is a terminal, which cannot show an image; use --output FILE or a pipe")
    split, row = _numbered(directory, key, wanted_split or "train") if is_id else _keyed(directory, key, wanted_split)
    data = _image_bytes(split, row)
    if output is not None:
        output.write_bytes(data)
        return
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _splits(directory: str, wanted: str | None) -> list[SplitIndex]:
    return [open_split(directory, name) for name in ([wanted] if wanted else read_manifest(directory).splits)]


def _line(split: SplitIndex, row: int, name: str) -> str:
    record = split.samples[row]
    label = int(record["label"])
    label_text = "-" if label == UNLABELLED else split.manifest.classes[label]
    size = f"{record['height']}x{record['width']}"
    shard = split.shards[int(record["shard"])].file
    return "\t".join(
        [split.name, str(row), printable(split_name(name)[0]), label_text, size, str(record["size"]), shard]
    )


def _numbered(directory: str, text: str, wanted_split: str) -> tuple[SplitIndex, int]:
    split = open_split(directory, wanted_split)
    if not text.isascii() or not text.isdigit() or int(text) >= len(split):
        raise DataError(f"'{text}' is not a sample's number in 0 ... {len(split) - 1} of split {split.name}")
    return split, int(text)


def _keyed(directory: str, key: str, wanted_split: str | None) -> tuple[SplitIndex, int]:
    splits = _splits(directory, wanted_split)
    for split in splits:
        row = find_key(split, key)
        if row is not None:
            return split, row
    where = ", ".join(split.name for split in splits)
    raise DataError(f"{directory}: no sample with the key '{key}' in {where}; `ls` lists the keys")


def _image_bytes(split: SplitIndex, row: int) -> bytes:
    record = split.samples[row]
    shard, start, size = split.shard_location(int(record["shard"])), int(record["offset"]), int(record["size"])
    try:
        answer = read_ranges([shard], [start], [start + size])[0] if is_remote(shard) else read_at(shard, start, size)
    except OSError as error:
        answer = error
    if isinstance(answer, OSError):
        raise DataError(f"{shard}: {answer.strerror or answer}")
    if crc32(answer) != record["crc32"]:
        raise DataError(
            f"{shard}: sample {row} of {split.name} is damaged (CRC differs); "
            "run `python -m pipelines.build_shards verify`"
        )
    return answer
