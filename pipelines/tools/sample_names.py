"""Names of samples: the index has none, but a tar header stands before every image."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.errors import DataError
from pipelines.manifest import SplitIndex
from pipelines.remote.locations import is_remote
from pipelines.remote.ranged_reads import read_ranges
from pipelines.tools.tar_samples import printable, split_name
from pipelines.tools.tar_stream import name_before

WINDOW_BYTES = 8_192
"""Before an image: its header, and before that a name of at most 4,096 bytes."""
BATCH = 1_024


def image_names(split: SplitIndex, rows: npt.NDArray[np.int64]) -> Iterator[str]:
    """Names of the image members of samples, in the order given; neighbours in a shard are read together.

    Raises:
        DataError: a shard cannot be read, or is not the one that was indexed.
    """
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH].tolist()
        for row, block in zip(batch, _blocks_before(split, batch), strict=True):
            name = name_before(block)
            if name is None:
                raise _no_header(split, row)
            yield name


def find_key(split: SplitIndex, key: str) -> int | None:
    """The first sample with a key; the full name of the image stands for it too.

    Raises:
        DataError: see `image_names`.
    """
    wanted = key.rpartition("/")[2].encode()
    for first in range(0, len(split), BATCH):
        batch = range(first, min(first + BATCH, len(split)))
        for row, block in zip(batch, _blocks_before(split, batch), strict=True):
            # Ten times as fast as parsing every header. What cannot be printed is shown with backslashes.
            if wanted not in block and b"\\" not in wanted:
                continue
            name = name_before(block)
            if name is None:
                raise _no_header(split, row)
            if key in (name, printable(name), split_name(name)[0], printable(split_name(name)[0])):
                return row
    return None


def _blocks_before(split: SplitIndex, rows: Sequence[int]) -> Iterator[bytes]:
    """What stands in the shards before each image."""
    records = split.samples[list(rows)]
    ends = records["offset"].astype(np.int64).tolist()
    starts = [max(0, end - WINDOW_BYTES) for end in ends]
    locations = {shard: split.shard_location(shard) for shard in np.unique(records["shard"]).tolist()}
    paths = [locations[shard] for shard in records["shard"].tolist()]
    if any(map(is_remote, paths)):
        urls = [path if is_remote(path) else f"file://{Path(path).absolute()}" for path in paths]
        for path, answer in zip(paths, read_ranges(urls, starts, ends), strict=True):
            if isinstance(answer, OSError):
                raise DataError(f"{path}: {answer.strerror or answer}")
            yield answer
        return
    opened, descriptor = "", -1
    try:
        for path, start, end in zip(paths, starts, ends, strict=True):
            if path != opened:
                if descriptor >= 0:
                    os.close(descriptor)
                opened, descriptor = path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            yield os.pread(descriptor, end - start, start)
    except OSError as error:
        raise DataError(f"{opened}: {error.strerror}") from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _no_header(split: SplitIndex, row: int) -> DataError:
    record = split.samples[row]
    shard = split.shard_location(int(record["shard"]))
    return DataError(
        f"{shard}: no tar header before byte {record['offset']}, where sample {row} of {split.name} should begin; "
        "run `python -m pipelines.build_shards verify`"
    )
