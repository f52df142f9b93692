"""What a build would make, and whether it fits on the disk, without writing a thing."""

import shutil
import tempfile
from pathlib import Path

from pipelines.atomic_directory import refuse_used
from pipelines.build.build_options import BuildOptions
from pipelines.build.planning import plan_build, require_space


def dry_run(options: BuildOptions) -> None:
    """Print the plan of a build; archives are unpacked to a temporary directory.

    Raises:
        DataError: the output is in use, the source is refused, or the disk is too small.
    """
    output = options.output.resolve()
    refuse_used(output)
    with tempfile.TemporaryDirectory() as scratch:
        planned = plan_build(options, Path(scratch))
    for note in planned.source.notes:
        print(note)
    share = planned.share(options.part)
    print(f"{'split':<8}{'images':>12}{'classes':>9}{'shards':>8}{'bytes, about':>20}")
    for split in planned.plan.shards:
        shards = [shard for shard in share if shard.split == split]
        images, size = sum(len(shard.rows) for shard in shards), sum(shard.bytes for shard in shards)
        print(f"{split:<8}{images:>12,}{len(planned.source.classes):>9}{len(shards):>8}{size:>20,}")
    if planned.source.faults:
        print(f"{len(planned.source.faults)} files are no images")
    place = next(parent for parent in output.parents if parent.is_dir())
    print(f"{place}: {shutil.disk_usage(place).free:,} bytes are free")
    require_space(place, sum(shard.bytes for shard in share))
