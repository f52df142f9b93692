"""Builds a data set directory: plan the shards, finish each, assemble and publish."""

import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from pipelines.build.assembly import ERRORS_NAME, FinishedSplit, all_faults, assemble, gather, write_faults
from pipelines.build.build_directory import BuildDirectory, Part, build_directory, partial_path
from pipelines.build.build_options import BuildOptions
from pipelines.build.build_plan import BuildPlan, adopt_plan, read_plan
from pipelines.build.finished_shards import NotedShard, ShardTask, check_shard, finish_shard, read_note
from pipelines.build.items import picked
from pipelines.build.planning import Planned, plan_build, require_space
from pipelines.build.shard_plan import ShardPlan
from pipelines.build.shard_writer import ShardWork
from pipelines.build.sources import Fault
from pipelines.build.worker_pool import run_tasks
from pipelines.errors import DataError
from pipelines.messages import say


def build(options: BuildOptions) -> None:
    """Build a data set directory, or a part of one, and print a summary.

    Raises:
        DataError: the output is in use, the source is refused, the disk is too small, or images are bad and are not to
            be skipped.
    """
    output, part = options.output.resolve(), options.part
    with build_directory(output, part, restart=options.restart) as directory:
        planned = plan_build(options, directory.scratch)
        for note in planned.source.notes:
            say(note)
        share = planned.share(part)
        say(f"{planned.plan.name}: {sum(len(shard.rows) for shard in share):,} images for {len(share):,} shards")
        missing = [shard for shard in share if not read_note(directory.path, shard.stem, planned.digest(shard))]
        require_space(directory.path, sum(shard.bytes for shard in missing))
        if adopted := adopt_plan(directory.plan, planned.plan, alone=part is None):
            say(f"{adopted}; of {len(share):,} shards {len(share) - len(missing):,} are finished")
        _finish_shards(share, planned, directory, options)
        if part is None:
            _conclude(directory, planned.plan, output)
            return
        notes = [read_note(directory.path, shard.stem, planned.digest(shard)) for shard in share]
        faults = planned.plan.faults + [fault for note in notes if note for fault in note.faults]
        _refuse(faults, planned.plan, _log_path(output, part))
        print(f"part {part.number}/{part.count} is finished; when all are: merge --output {options.output}")


def merge(output: Path, workers: int) -> None:
    """Make the data set of shards that the parts of a build have finished.

    Raises:
        DataError: a shard is missing or has changed since it was finished, or images are bad and are not to be skipped.
    """
    output = output.resolve()
    if not partial_path(output).is_dir():
        raise DataError(f"{partial_path(output)}: no such directory; no part of this build was begun")
    with build_directory(output, None, restart=False) as directory:
        plan = read_plan(directory.plan)
        notes = [
            NotedShard(directory=directory.path, stem=stem, digest=digest)
            for split in gather(directory.path, plan)
            for stem, digest in zip(split.stems, split.digests, strict=True)
        ]
        for stem, is_whole in run_tasks(check_shard, notes, min(workers, len(notes)), tick=lambda _: None):
            if not is_whole:
                raise DataError(f"shard {stem} has changed since it was finished; run its part again")
        _conclude(directory, plan, output)


def _finish_shards(share: list[ShardPlan], planned: Planned, directory: BuildDirectory, options: BuildOptions) -> None:
    start = time.perf_counter()
    images = sum(len(shard.rows) for shard in share)
    tasks = (_task(shard, planned, directory, mend=options.on_error == "fail") for shard in share)
    workers = max(1, min(options.workers, len(share)))
    written = Counter[str]()
    with (
        tqdm(total=images, unit=" images", leave=False, disable=not sys.stderr.isatty()) as bar,
        closing(run_tasks(finish_shard, tasks, workers, tick=bar.update)) as outcomes,
    ):
        for outcome in outcomes:
            if outcome.damaged:
                say(f"shard {outcome.stem} has changed since it was finished; it is written again")
            if not outcome.kept:
                written.update(shards=1, images=outcome.samples)
    seconds = time.perf_counter() - start
    say(
        f"{written['images']:,} images written in {written['shards']:,} shards, {seconds:.1f} s, "
        f"{written['images'] / seconds:,.0f} images/s, {workers} processes"
    )


def _task(shard: ShardPlan, planned: Planned, directory: BuildDirectory, *, mend: bool) -> ShardTask:
    source = planned.source
    work = ShardWork(
        stem=shard.stem,
        split=shard.split,
        number=shard.number,
        first=shard.first,
        items=list(picked(source.items, shard.rows)),
        classes=source.classes,
        read=source.read,
        storage=planned.storage,
    )
    return ShardTask(
        work=work, digest=planned.digest(shard), directory=directory.path, writing=directory.scratch, mend=mend
    )


def _conclude(directory: BuildDirectory, plan: BuildPlan, output: Path) -> None:
    splits = gather(directory.path, plan)
    faults = all_faults(plan, splits)
    _refuse(faults, plan, _log_path(output, None))
    assemble(directory.path, plan, splits, output)
    if converted := sum(split.converted for split in splits):
        say(f"{converted} CMYK images without Adobe's marker, on whose colours decoders disagree, were stored as RGB")
    directory.plan.unlink()  # and with it, at the end, the directory
    _print_summary(splits, plan, output, len(faults))


def _refuse(faults: list[Fault], plan: BuildPlan, log: Path) -> None:
    log.unlink(missing_ok=True)  # of an earlier attempt
    if faults and plan.on_error == "fail":
        write_faults(log, faults)
        raise DataError(
            f"{len(faults)} bad images, listed with reasons in {log}; mend them or use --on-error skip, and run the "
            "same command again: it keeps what is finished"
        )


def _log_path(output: Path, part: Part | None) -> Path:
    return output.with_name(f"{output.name}.{f'part-{part.label}.' if part else ''}{ERRORS_NAME}")


def _print_summary(splits: list[FinishedSplit], plan: BuildPlan, output: Path, left_out: int) -> None:
    print(f"{'split':<8}{'samples':>12}{'classes':>9}{'shards':>8}{'bytes':>18}{'skipped':>9}")
    for split in splits:
        size = sum(shard.bytes for shard in split.shards)
        print(
            f"{split.name:<8}{len(split.records):>12,}{len(plan.classes):>9}{len(split.shards):>8}{size:>18,}"
            f"{len(split.faults):>9}"
        )
    print(f"{output}{f'; {left_out} files left out, see {ERRORS_NAME}' if left_out else ''}")
