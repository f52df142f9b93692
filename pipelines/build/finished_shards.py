"""Shards that are finished but not yet published: each has a note beside it that says what it holds.

    finished/train-000000.tar, .idx     written elsewhere, brought to disk, renamed
    notes/train-000000.npz              written after them

A build that was killed goes on from these, and the parts of a build that ran on several machines meet here.
"""

import hashlib
import json
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipelines.build.shard_writer import ShardWork, WrittenShard, write_shard
from pipelines.build.sources import Fault
from pipelines.build.worker_pool import Tick

FINISHED, NOTES = "finished", "notes"
SUFFIXES = (".tar", ".idx")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask:
    """A shard to be finished."""

    work: ShardWork
    digest: str
    """Of its plan: a finished shard of another plan does not count."""
    directory: Path
    """Holds `finished` and `notes`."""
    writing: Path
    """Scratch directory on the same file system."""
    mend: bool
    """Whether a shard with bad images is written again: they may be good by now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What was done about a shard."""

    stem: str
    samples: int
    kept: bool
    """Whether it was finished already."""
    damaged: bool
    """Whether it was finished already but has changed since."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotedShard:
    """A finished shard to be checked."""

    directory: Path
    stem: str
    digest: str


def finish_shard(task: ShardTask, tick: Tick) -> Outcome:
    """Write a shard, unless an earlier build did."""
    stem = task.work.stem
    found = read_note(task.directory, stem, task.digest)
    damaged = found is not None and not is_whole(task.directory, stem, found)
    if found is not None and not damaged and not (task.mend and found.faults):
        tick(len(task.work.items))
        return Outcome(stem=stem, samples=len(found.records), kept=True, damaged=False)
    _note_path(task.directory, stem).unlink(missing_ok=True)
    written = write_shard(task.work, task.writing, tick=lambda: tick(1))
    _commit(task, written)
    return Outcome(stem=stem, samples=len(written.records), kept=False, damaged=damaged)


def check_shard(shard: NotedShard, _tick: Tick) -> tuple[str, bool]:
    """Name of a finished shard, and whether it is still as it was written."""
    found = read_note(shard.directory, shard.stem, shard.digest)
    return shard.stem, found is not None and is_whole(shard.directory, shard.stem, found)


def read_note(directory: Path, stem: str, digest: str) -> WrittenShard | None:
    """What was noted of a shard; None if it is not finished, or was made from another plan."""
    try:
        with np.load(_note_path(directory, stem), allow_pickle=False) as note:
            content = json.loads(str(note["content"]))
            if content["digest"] != digest:
                return None
            return WrittenShard(
                bytes=content["bytes"],
                sha256=content["sha256"],
                idx_sha256=content["idx_sha256"],
                records=note["records"],
                histogram=note["histogram"],
                converted=content["converted"],
                faults=[Fault(**fault) for fault in content["faults"]],
            )
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def is_whole(directory: Path, stem: str, shard: WrittenShard) -> bool:
    """Whether a finished shard still has the bytes that were written, and its index is there."""
    if not len(shard.records):
        return True
    return all(
        _sha256(directory / FINISHED / f"{stem}{suffix}") == expected
        for suffix, expected in ((".tar", shard.sha256), (".idx", shard.idx_sha256))
    )


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _commit(task: ShardTask, shard: WrittenShard) -> None:
    stem = task.work.stem
    if len(shard.records):
        for suffix in SUFFIXES:
            _settle(task.writing / (stem + suffix), task.directory / FINISHED / (stem + suffix))
    content = {
        "digest": task.digest,
        "bytes": shard.bytes,
        "sha256": shard.sha256,
        "idx_sha256": shard.idx_sha256,
        "converted": shard.converted,
        "faults": [asdict(fault) for fault in shard.faults],
    }
    note = task.writing / f"{stem}.npz"
    np.savez(note, records=shard.records, histogram=shard.histogram, content=np.array(json.dumps(content)))
    _settle(note, _note_path(task.directory, stem))


def _note_path(directory: Path, stem: str) -> Path:
    return directory / NOTES / f"{stem}.npz"


def _settle(path: Path, target: Path) -> None:
    """Bring a file to disk before it gets its name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.rename(target)
