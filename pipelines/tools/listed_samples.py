"""Finds samples by a list of file names or keys, such as the official 1 % and 10 % of ImageNet."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.errors import DataError
from pipelines.manifest import SplitIndex
from pipelines.remote.locations import is_remote
from pipelines.tools.foreign_sample import description
from pipelines.tools.tar_samples import MAX_TEXT_BYTES, kind_of, open_shard, split_name, tar_samples
from pipelines.tools.tar_stream import BrokenTarError, TarStream, tar_members

SHOWN = 3


def listed_rows(split: SplitIndex, path: Path) -> npt.NDArray[np.int64]:
    """Rows of the listed samples, rising.

    A line is the `name` that a sample's json gives, its last path component, or the sample's key or the last path
    component of that, with or without the image's suffix.

    Raises:
        DataError: the list is empty, a line fits no sample or several, or a shard cannot be read.
    """
    try:
        lines = dict.fromkeys(line.strip() for line in path.read_text().splitlines() if line.strip())
    except ValueError:
        raise DataError(f"{path}: not a text file in UTF-8") from None
    if not lines:
        raise DataError(f"{path}: empty; expected file names or keys, one a line")
    by_key = {line: line for line in lines}
    for line in lines:
        by_key.setdefault(split_name(line)[0] or line, line)
    found: dict[str, int] = {}
    for row, key, name in _names(split):
        hits = {text for text in (name, _last(name)) if text in lines}
        hits |= {by_key[text] for text in (key, _last(key)) if text in by_key}
        for line in hits:
            if line in found:
                where = f"samples {found[line]} and {row} of {split.name}"
                raise DataError(f"{path}: '{line}' fits {where}; write more of the path, or the key")
            found[line] = row
    missing = [line for line in lines if line not in found]
    if missing:
        raise DataError(
            f"{path}: {len(missing):,} of {len(lines):,} names are not in split {split.name} of {split.location}, "
            f"such as {', '.join(missing[:SHOWN])}"
        )
    return np.unique(list(found.values()))


def _names(split: SplitIndex) -> Iterator[tuple[int, str, str]]:
    """Row, key, and name in the json member (or else '') of every sample of the split."""
    for number in range(len(split.shards)):
        rows = np.flatnonzero(split.samples["shard"] == number).tolist()
        row_at = dict(zip(split.samples["offset"][rows].tolist(), rows, strict=True))
        location = split.shard_location(number)
        try:
            with open_shard(location, whole=False) as file:
                stream = TarStream(file, hashed=is_remote(location))
                for sample in tar_samples(tar_members(stream, _only_json)):
                    row = next((row_at[m.offset] for m in sample.members.values() if m.offset in row_at), None)
                    if row is not None:
                        name = description(sample).get("name")
                        yield row, sample.key, name if isinstance(name, str) else ""
        except BrokenTarError as error:
            raise DataError(f"{location}: {error}; run `python -m pipelines.build_shards verify`") from None
        except OSError as error:
            raise DataError(f"{location}: {error.strerror or error}") from None


def _only_json(name: str) -> int:
    return MAX_TEXT_BYTES if kind_of(split_name(name)[1]) == "json" else 0


def _last(name: str) -> str:
    return name.rpartition("/")[2]
