"""From finished shards to a data set: gaps closed, indices and manifest written, the directory published."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.atomic_directory import publish
from pipelines.build.build_plan import BuildPlan
from pipelines.build.finished_shards import FINISHED, SUFFIXES, read_note
from pipelines.build.images import channel_statistics
from pipelines.build.shard_plan import shard_stem
from pipelines.build.sources import Fault
from pipelines.errors import DataError
from pipelines.manifest import INDEX_DTYPE, IndexArray, Manifest, Shard, Split, write_manifest

ERRORS_NAME = "errors.jsonl"


@dataclass(frozen=True, kw_only=True)
class FinishedSplit:
    """A split all of whose shards are finished; those without a single good image are left out."""

    name: str
    stems: list[str]
    """File names of the shards as they were planned, without suffix."""
    digests: list[str]
    """Of their plans."""
    shards: list[Shard]
    """As they will be, numbered without gaps."""
    records: IndexArray
    histogram: npt.NDArray[np.int64]
    """(3, 256) pixel counts by channel and value."""
    converted: int
    """Images of CMYK that had to be stored as RGB."""
    faults: list[Fault]


def gather(directory: Path, plan: BuildPlan) -> list[FinishedSplit]:
    """Everything that was noted of the shards, split by split.

    Raises:
        DataError: a shard is not finished, or was written from another plan.
    """
    return [_gathered(directory, name, digests) for name, digests in plan.shards.items()]


def assemble(directory: Path, plan: BuildPlan, splits: list[FinishedSplit], output: Path) -> None:
    """Make the data set of finished shards; it appears complete or not at all.

    Args:
        directory: of the build.
        plan: of the build.
        splits: as gathered.
        output: where the data set appears.

    Raises:
        DataError: a split has not a single good image.
    """
    finished = directory / FINISHED
    for split in splits:
        if not split.shards:
            first = split.faults[0]
            raise DataError(f"split {split.name} has not a single good image; the first: {first.name}: {first.reason}")
    _remove_others(finished, {stem for split in splits for stem in split.stems})
    for split in splits:
        for stem, shard in zip(split.stems, split.shards, strict=True):
            for suffix in SUFFIXES:
                (finished / (stem + suffix)).rename((finished / shard.file).with_suffix(suffix))
    if faults := all_faults(plan, splits):
        write_faults(finished / ERRORS_NAME, faults)
    mean, std = channel_statistics(splits[0].histogram)  # splits[0] is train
    manifest = Manifest(
        name=plan.name,
        classes=plan.classes,
        splits={split.name: _indexed(split, finished) for split in splits},
        statistics={"mean": mean, "std": std},
        resize=plan.resize,
        made={**plan.made, "cmyk_stored_as_rgb": sum(split.converted for split in splits)},
    )
    write_manifest(finished, manifest)
    publish(finished, output)


def all_faults(plan: BuildPlan, splits: list[FinishedSplit]) -> list[Fault]:
    """Of files refused by their names, and of bad images."""
    return plan.faults + [fault for split in splits for fault in split.faults]


def write_faults(path: Path, faults: list[Fault]) -> None:
    """Write a JSON line per fault, by name."""
    lines = [json.dumps(asdict(fault)) for fault in sorted(faults, key=lambda fault: (fault.name, fault.split or ""))]
    path.write_text("\n".join([*lines, ""]))


def _gathered(directory: Path, name: str, digests: list[str]) -> FinishedSplit:
    stems, kept, shards = list[str](), list[str](), list[Shard]()
    records, faults = list[IndexArray](), list[Fault]()
    histogram, converted = np.zeros((3, 256), dtype=np.int64), 0
    for number, digest in enumerate(digests):
        stem = shard_stem(name, number)
        shard = read_note(directory, stem, digest)
        if shard is None:
            raise DataError(
                f"shard {stem} is not finished, or was written from another list of images; run its part again"
            )
        faults += shard.faults
        if not len(shard.records):
            continue
        moved = shard.records
        moved["shard"] = len(shards)
        file = f"{shard_stem(name, len(shards))}.tar"
        stems.append(stem)
        kept.append(digest)
        shards.append(Shard(file=file, bytes=shard.bytes, samples=len(moved), sha256=shard.sha256))
        records.append(moved)
        histogram += shard.histogram
        converted += shard.converted
    whole = np.concatenate(records) if records else np.empty(0, dtype=INDEX_DTYPE)
    return FinishedSplit(
        name=name,
        stems=stems,
        digests=kept,
        shards=shards,
        records=whole,
        histogram=histogram,
        converted=converted,
        faults=faults,
    )


def _remove_others(finished: Path, stems: set[str]) -> None:
    """Leave the shards alone: a build that was stopped on this very road, or had another plan, may have left more."""
    expected = {stem + suffix for stem in stems for suffix in SUFFIXES}
    for path in finished.iterdir():
        if path.name not in expected:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _indexed(split: FinishedSplit, directory: Path) -> Split:
    path = directory / f"{split.name}.index.npy"
    np.save(path, split.records)
    return Split(
        samples=len(split.records),
        index_file=path.name,
        index_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        shards=tuple(split.shards),
    )
