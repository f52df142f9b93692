"""Checks every byte of a data set directory: shards, DALI's indices and our own against each other and the manifest."""

import hashlib
import io
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.build.images import channel_statistics
from pipelines.manifest import INDEX_DTYPE, MANIFEST_NAME, IndexArray, Manifest, Split, read_manifest
from pipelines.remote.locations import join, read_file
from pipelines.tools.shard_pool import over_shards
from pipelines.tools.verify_shard import ShardToVerify, VerifyFault, verify_shard

STATISTICS_TOLERANCE = 1e-3
"""JPEG decoders may differ by a level here and there; a wrong data set differs by more."""
RESIZES = re.compile(r"none|(canvas|short):[1-9]\d*")


def verify(directory: str | Path, *, workers: int = 1, as_json: bool = False) -> int:
    """Print a line per fault and per split, and `ok` if there is no fault; or one JSON object.

    Args:
        directory: of the data set, or its URL.
        workers: processes at most.
        as_json: print `{"ok": ..., "splits": {NAME: {"samples": ..., "shards": ..., "faults": [...]}}}`.

    Returns:
        0, or 1 if there are faults.

    Raises:
        DataError: the manifest cannot be read.
    """
    manifest = read_manifest(directory)
    report: dict[str, dict[str, Any]] = {}
    for name, split in manifest.splits.items():
        faults = _split_faults(str(directory), manifest, name, workers)
        report[name] = {
            "samples": split.samples,
            "shards": len(split.shards),
            "faults": [asdict(fault) for fault in faults],
        }
        if not as_json:
            for fault in faults:
                print(fault)
            print(f"{name}: {split.samples:,} samples in {len(split.shards)} shards, {len(faults)} faults")
    ok = not any(entry["faults"] for entry in report.values())
    if as_json:
        print(json.dumps({"ok": ok, "splits": report}, indent=1))
    elif ok:
        print("ok")
    return 0 if ok else 1


def _split_faults(directory: str, manifest: Manifest, name: str, workers: int) -> list[VerifyFault]:
    split = manifest.splits[name]
    if not RESIZES.fullmatch(manifest.resize):
        return [VerifyFault(file=MANIFEST_NAME, what=f"resize is '{manifest.resize}', expected {RESIZES.pattern}")]
    records, faults = _read_index(directory, split)
    if records is None:
        return faults
    works = [
        ShardToVerify(
            directory=directory,
            shard=shard,
            records=records[records["shard"] == number],
            classes=manifest.classes,
            resize=manifest.resize,
            is_whole=manifest.whole_shards,
            is_foreign=_is_foreign(manifest.made),
        )
        for number, shard in enumerate(split.shards)
    ]
    histogram = np.zeros((3, 256), dtype=np.int64)
    total_bytes = sum(shard.bytes for shard in split.shards)
    for verified in over_shards(verify_shard, works, total_bytes=total_bytes, workers=workers, title=name):
        faults += verified.faults
        histogram += verified.histogram
    if name == "train" and manifest.whole_shards and not faults and histogram.any():
        # Those of a part are said to be those of the whole; where only headers were read, there may be none.
        unknown = not manifest.pixels_checked and not manifest.statistics
        if not unknown and _statistics_differ(manifest.statistics, histogram):
            faults.append(VerifyFault(file=MANIFEST_NAME, what="statistics are not those of the train split"))
    return faults


def _read_index(directory: str, split: Split) -> tuple[IndexArray | None, list[VerifyFault]]:
    """The index, if it can be read at all, and what is wrong with it."""
    file = split.index_file
    try:
        data = read_file(join(directory, file))
        records: IndexArray = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        return None, [VerifyFault(file=file, what=f"cannot be read ({error})")]
    if records.dtype != INDEX_DTYPE or records.ndim != 1:
        return None, [VerifyFault(file=file, what="not an index")]
    faults = []
    if hashlib.sha256(data).hexdigest() != split.index_sha256:
        faults.append(f"sha256 differs from {MANIFEST_NAME}")
    if not len(records) == split.samples == sum(shard.samples for shard in split.shards):
        faults.append(f"{len(records)} samples, {MANIFEST_NAME} says {split.samples}")
    if (records["shard"][1:] < records["shard"][:-1]).any():
        faults.append("samples are not in the order of the shards")
    if (outside := int((records["shard"] >= len(split.shards)).sum())) > 0:
        faults.append(f"{outside} samples in shards that {MANIFEST_NAME} does not have")
    return records, [VerifyFault(file=file, what=what) for what in faults]


def _is_foreign(made: dict[str, Any]) -> bool:
    """Whether others made the shards: a set that was indexed, or a part of one."""
    while isinstance(made.get("whole"), dict):
        made = made["whole"].get("made", {})
    return made.get("source") == "index"


def _statistics_differ(statistics: dict[str, list[float]], histogram: npt.NDArray[np.int64]) -> bool:
    mean, std = channel_statistics(histogram)
    try:
        stated = np.array([statistics["mean"], statistics["std"]], dtype=np.float64)
        return not np.allclose(stated, [mean, std], rtol=0, atol=STATISTICS_TOLERANCE)
    except (KeyError, TypeError, ValueError):
        return True
