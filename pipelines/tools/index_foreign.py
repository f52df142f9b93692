"""Makes a data set of shards that others made, without rewriting them: reads each once and writes index and manifest.

expand_sources -> by_split -> index_shard (several processes) -> merge_split -> write_index_files
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.atomic_directory import publish, refuse_used, work_directory
from pipelines.errors import DataError
from pipelines.manifest import MANIFEST_NAME, open_split
from pipelines.messages import say
from pipelines.remote.locations import is_remote
from pipelines.tools.index_files import ERRORS_NAME, idx_name, index_name, write_index_files, write_log
from pipelines.tools.index_merge import MergedSplit, agreed_classes, merge_split
from pipelines.tools.index_shard import IndexedShard, IndexFault, ShardToIndex, index_shard
from pipelines.tools.index_sources import by_split, default_name, expand_sources, read_classes
from pipelines.tools.label_mixing import mixing_warning
from pipelines.tools.place_files import place_files, refuse_present
from pipelines.tools.shard_pool import over_shards

FAILED_NAME = "index-errors.jsonl"


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """What to index, as asked on the command line."""

    sources: tuple[str, ...]
    output: Path | None = None
    """None writes into the one directory that is the source."""
    classes: Path | None = None
    """Class names, one a line."""
    check: str = "decode"
    """decode or header: how far images are read."""
    on_error: str = "fail"
    """fail or skip: what to do about bad samples."""
    unique_keys: str = "split"
    """split or shard: where a key may come only once."""
    overwrite: bool = False
    name: str | None = None
    workers: int = 1


def index_foreign(options: IndexOptions) -> None:
    """Index shards and print a summary.

    Raises:
        DataError: the options contradict each other, a shard cannot be read, or samples are bad and are not to be
            skipped.
    """
    shards = expand_sources(options.sources)
    given = read_classes(options.classes) if options.classes else ()
    directory, in_place = _target(options, shards)
    log = directory / FAILED_NAME if in_place else directory.with_name(f"{directory.name}.{FAILED_NAME}")
    log.unlink(missing_ok=True)  # of an earlier attempt
    start = time.perf_counter()
    with work_directory(directory / "index" if in_place else directory) as work:
        indexed = _read_shards(shards, options)
        classes = agreed_classes(indexed, given)
        merged, faults = _merge(indexed, classes, options)
        if faults and options.on_error == "fail":
            write_log(log, faults)
            raise DataError(f"{_counted(faults)}, listed in {log}; mend them or use --on-error skip")
        finished = work / "finished"
        finished.mkdir()
        write_index_files(
            finished,
            merged,
            faults,
            directory=directory,
            in_place=in_place,
            name=options.name or default_name(shards),
            classes=classes,
            pixels_checked=options.check == "decode",
            made={
                "source": "index",
                "options": {name: getattr(options, name) for name in ("check", "on_error", "unique_keys")},
            },
        )
        if in_place:
            (directory / ERRORS_NAME).unlink(missing_ok=True)
            place_files(finished, directory)
        else:
            publish(finished, directory)
    _print_summary(merged, len(classes), faults, directory, time.perf_counter() - start)


def _target(options: IndexOptions, shards: Sequence[str]) -> tuple[Path, bool]:
    """Directory to write, and whether the shards lie in it."""
    if options.output is not None:
        output = options.output.resolve()
        refuse_used(output)
        return output, False
    if len(options.sources) != 1 or is_remote(options.sources[0]) or not Path(options.sources[0]).is_dir():
        raise DataError("--output: name a directory for the index, since SOURCE is not a single local directory")
    directory = Path(options.sources[0]).absolute()
    if not options.overwrite:
        names = [MANIFEST_NAME, *map(index_name, by_split(shards)), *map(idx_name, shards), ERRORS_NAME]
        refuse_present(directory, names)
    return directory, True


def _read_shards(shards: Sequence[str], options: IndexOptions) -> dict[str, list[IndexedShard]]:
    """What became of the shards of each split."""
    works = [ShardToIndex(shard, options.check == "decode") for shard in shards]
    local = not any(map(is_remote, shards))
    total_bytes = sum(Path(shard).stat().st_size for shard in shards) if local else None
    indexed = over_shards(index_shard, works, total_bytes=total_bytes, workers=options.workers, title="index")
    results = {result.location: result for result in indexed}
    return {split: [results[shard] for shard in members] for split, members in by_split(shards).items()}


def _merge(
    indexed: dict[str, list[IndexedShard]], classes: tuple[str, ...], options: IndexOptions
) -> tuple[list[MergedSplit], list[IndexFault]]:
    """Every split, and all faults."""
    merged, faults = [], [fault for shards in indexed.values() for shard in shards for fault in shard.faults]
    for name, shards in indexed.items():
        split, found = merge_split(name, shards, classes, unique_in_shard_only=options.unique_keys == "shard")
        merged.append(split)
        faults += found
    return merged, faults


def _counted(faults: Sequence[IndexFault]) -> str:
    reasons = Counter(fault.reason for fault in faults).most_common()
    counted = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
    return f"{len(faults):,} fault{'s' * (len(faults) != 1)} ({counted})"


def _print_summary(
    merged: Sequence[MergedSplit], classes: int, faults: Sequence[IndexFault], directory: Path, seconds: float
) -> None:
    print(f"{'split':<8}{'samples':>12}{'classes':>9}{'shards':>8}{'bytes':>18}{'faults':>10}")
    for split in merged:
        locations = {shard.location for shard in split.shards}
        size = sum(shard.size for shard in split.shards)
        found = sum(fault.shard in locations for fault in faults)
        print(f"{split.name:<8}{split.samples:>12,}{classes:>9,}{len(split.shards):>8,}{size:>18,}{found:>10,}")
    samples = sum(split.samples for split in merged)
    print(f"{directory}: indexed in {seconds:.1f} s, {samples / seconds:,.0f} samples/s")
    if faults:
        print(f"{_counted(faults)}, see {ERRORS_NAME}")
    if merged[0].name == "train" and classes:
        warning = mixing_warning("train", open_split(directory, "train").samples)
        if warning:
            say(f"warning: {warning}")
