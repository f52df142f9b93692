"""A part of a split as a data set of its own, which shares the shards of the whole."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.atomic_directory import publish, refuse_used, work_directory
from pipelines.build.sources import split_word
from pipelines.errors import DataError
from pipelines.hashing import hash64
from pipelines.label_subsets import take
from pipelines.manifest import UNLABELLED, Manifest, Split, SplitIndex, open_split, write_manifest
from pipelines.remote.locations import join
from pipelines.tools.index_files import seen_from, write_split_index
from pipelines.tools.listed_samples import listed_rows

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SubsetOptions:
    """Which part; exactly one of fraction, per_class and list."""

    directory: str
    """Of the whole, or its URL."""
    output: Path
    fraction: float | None = None
    """Of the samples, in (0, 1]."""
    per_class: int | None = None
    list: Path | None = None
    """File names or keys, one a line."""
    balanced: bool = False
    """With fraction: equally many of every class."""
    seed: int = 0
    """Of the choice. Of one seed, a smaller part lies within every larger one of its kind."""
    split: str = "train"
    """To choose from; others are taken over whole."""


def write_subset(options: SubsetOptions) -> None:
    """Write the part's directory and print a summary.

    Raises:
        DataError: the output is in use, or there is nothing, or not enough, to choose from.
    """
    if options.balanced and options.fraction is None:
        raise DataError("--balanced: goes with --fraction; --per-class is balanced, a list is what it is")
    output = options.output.resolve()
    refuse_used(output)
    whole = open_split(options.directory, options.split)
    rows = _choose(whole, options)
    with work_directory(output) as work:
        finished = work / "finished"
        finished.mkdir()
        splits = {}
        for name in whole.manifest.splits:
            split = whole if name == options.split else open_split(options.directory, name)
            chosen = rows if name == options.split else np.arange(len(split))
            splits[name] = _write_split(finished, split, chosen, output)
        write_manifest(finished, _manifest(whole.manifest, splits, options))
        publish(finished, output)
    for name, described in splits.items():
        print(f"{name}: {described.samples:,} samples in {len(described.shards):,} shards")
    print(output)


def _choose(whole: SplitIndex, options: SubsetOptions) -> Rows:
    """Rows of the part, rising."""
    label = whole.samples["label"].astype(np.int64)
    rank = hash64(options.seed, split_word(whole.name), np.arange(len(whole)))
    if options.list is not None:
        return listed_rows(whole, options.list)
    if options.per_class is not None:
        return _of_every_class(whole, rank, options.per_class)
    fraction = options.fraction or 1.0
    if options.balanced:
        return _of_every_class(whole, rank, max(1, round(fraction * len(label) / max(1, len(whole.manifest.classes)))))
    return np.sort(np.argsort(rank, kind="stable")[: max(1, round(fraction * len(label)))])


def _of_every_class(whole: SplitIndex, rank: npt.NDArray[np.uint64], count: int) -> Rows:
    """The `count` samples of lowest rank of each class."""
    classes, label = whole.manifest.classes, whole.samples["label"].astype(np.int64)
    if not classes or (label == UNLABELLED).any():
        raise DataError(f"{whole.location}: split {whole.name} has samples without labels, so none can be balanced")
    present = np.bincount(label, minlength=len(classes))
    smallest = int(present.argmin())
    if present[smallest] < count:
        raise DataError(
            f"{whole.location}: class '{classes[smallest]}' has {present[smallest]} samples in split {whole.name}, but "
            f"{count} of every class are wanted; ask for less, or leave out --balanced"
        )
    order = np.lexsort((rank, label))
    place_in_class = np.arange(len(order)) - np.repeat(np.cumsum(present) - present, present)
    return np.sort(order[place_in_class < count])


def _write_split(finished: Path, split: SplitIndex, rows: Rows, output: Path) -> Split:
    """Index and description of chosen samples; shards without one are left out."""
    part = take(split, rows)
    shards = [
        shard
        if shard.file.startswith("/")
        else replace(shard, file=seen_from(output, join(split.location, shard.file)))
        for shard in part.shards
    ]
    return write_split_index(finished, split.name, part.samples, shards)


def _manifest(whole: Manifest, splits: dict[str, Split], options: SubsetOptions) -> Manifest:
    names = ("fraction", "per_class", "balanced", "seed", "split")
    made: dict[str, Any] = {name: getattr(options, name) for name in names}
    if options.list is not None:
        made["list"] = options.list.name
    return Manifest(
        name=f"{whole.name}-subset",
        classes=whole.classes,
        splits=splits,
        statistics=whole.statistics,
        resize=whole.resize,
        whole_shards=False,
        pixels_checked=whole.pixels_checked,
        made={
            "source": "subset",
            "options": made,
            "statistics": "of the whole",
            **({"metric": whole.made["metric"]} if "metric" in whole.made else {}),
            "whole": {"name": whole.name, "fingerprint": whole.fingerprint, "made": whole.made},
        },
    )
