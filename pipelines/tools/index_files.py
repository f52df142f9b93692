"""What is written about foreign shards: manifest, an index per split, DALI's index per shard, the log of faults."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.build.images import channel_statistics
from pipelines.errors import DataError
from pipelines.manifest import IndexArray, Manifest, Shard, Split, write_manifest
from pipelines.remote.locations import is_remote
from pipelines.tools.index_merge import MergedSplit
from pipelines.tools.index_shard import IndexFault, unpack_lines
from pipelines.tools.index_sources import file_name
from pipelines.tools.tar_samples import printable

ERRORS_NAME = "errors.jsonl"


def write_index_files(
    finished: Path,
    merged: Sequence[MergedSplit],
    faults: Sequence[IndexFault],
    *,
    directory: Path,
    in_place: bool,
    name: str,
    classes: tuple[str, ...],
    pixels_checked: bool,
    made: dict[str, Any],
) -> None:
    """Write all files.

    Args:
        finished: directory to write to.
        merged: splits; shards without a good sample are passed over.
        faults: all of them.
        directory: where the files will be moved to.
        in_place: whether the shards lie there; then DALI's indices are written too.
        name: of the data set.
        classes: their names.
        pixels_checked: whether all images were decoded.
        made: for the manifest.

    Raises:
        DataError: a split has no good sample.
    """
    splits = {}
    for split in merged:
        records, shards = _records(split, directory, in_place=in_place)
        if not shards:
            first = faults[0]
            raise DataError(
                f"split {split.name} has not a single good sample; the first fault: {first.shard}: "
                f"{printable(first.key)}: {first.reason}: {first.message}"
            )
        splits[split.name] = write_split_index(finished, split.name, records, shards)
        if in_place:
            _write_idx_files(finished, split)
    if faults:
        write_log(finished / ERRORS_NAME, faults)
    manifest = Manifest(
        name=name,
        classes=classes,
        splits=splits,
        statistics=_statistics(merged[0]),  # of train, if there is such a split
        whole_shards=not faults,
        pixels_checked=pixels_checked,
        made=made,
    )
    write_manifest(finished, manifest)


def write_split_index(directory: Path, name: str, records: IndexArray, shards: Sequence[Shard]) -> Split:
    """Write a split's index and describe the split for the manifest."""
    path = directory / index_name(name)
    np.save(path, records)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Split(samples=len(records), index_file=path.name, index_sha256=digest, shards=tuple(shards))


def write_log(path: Path, faults: Sequence[IndexFault]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(asdict(fault)) + "\n" for fault in faults))


def index_name(split: str) -> str:
    """File name of a split's index."""
    return f"{split}.index.npy"


def idx_name(shard: str) -> str:
    """File name of DALI's index of a shard."""
    return str(Path(file_name(shard)).with_suffix(".idx"))


def seen_from(directory: Path, location: str) -> str:
    """A shard's place as a data set directory names it: a URL, or a relative path, so that both can move together."""
    if is_remote(location):
        return location
    path = Path(location)
    return os.path.relpath(path.parent.resolve() / path.name, directory.resolve())


def _records(split: MergedSplit, directory: Path, *, in_place: bool) -> tuple[IndexArray, list[Shard]]:
    parts, shards = list[IndexArray](), list[Shard]()
    for shard, kept in zip(split.shards, split.kept, strict=True):
        records = shard.records[kept]
        if not len(records):
            continue
        records["shard"] = len(shards)
        parts.append(records)
        file = file_name(shard.location) if in_place else seen_from(directory, shard.location)
        shards.append(Shard(file=file, bytes=shard.size, samples=len(records), sha256=shard.sha256))
    return np.concatenate(parts) if parts else split.shards[0].records, shards


def _write_idx_files(finished: Path, split: MergedSplit) -> None:
    for shard, kept in zip(split.shards, split.kept, strict=True):
        lines = [line for line, keep in zip(unpack_lines(shard.packed_idx_lines), kept.tolist(), strict=True) if keep]
        if lines:
            (finished / idx_name(shard.location)).write_text("\n".join([f"v1.2 {len(lines)}", *lines, ""]))


def _statistics(split: MergedSplit) -> dict[str, list[float]]:
    histogram = np.sum([shard.histogram for shard in split.shards], axis=0)
    if not histogram.any():
        return {}
    mean, std = channel_statistics(histogram)
    return {"mean": mean, "std": std}
