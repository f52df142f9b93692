"""From options to a plan: the source is opened, its images are shuffled and cut into shards."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from pipelines.build.build_directory import Part
from pipelines.build.build_options import BuildOptions
from pipelines.build.build_plan import BuildPlan, make_plan
from pipelines.build.open_source import open_source
from pipelines.build.shard_plan import ShardPlan, plan_shards
from pipelines.build.sources import Source
from pipelines.build.stored_image import Storage
from pipelines.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A build before its first shard."""

    source: Source
    plan: BuildPlan
    shards: list[ShardPlan]
    """Of all splits."""

    storage: Storage

    def share(self, part: Part | None) -> list[ShardPlan]:
        """The shards of a part; all for None."""
        return self.shards[part.number :: part.count] if part else self.shards

    def digest(self, shard: ShardPlan) -> str:
        """What tells a shard of this plan from those of others."""
        return self.plan.shards[shard.split][shard.number]


def plan_build(options: BuildOptions, scratch: Path) -> Planned:
    """List the source and plan the shards.

    Args:
        options: of the build.
        scratch: see `open_source`.

    Raises:
        DataError: the source is refused.
    """
    source = open_source(options, scratch)
    shards = [shard for split in source.items.splits for shard in plan_shards(source, split, options.plan)]
    plan = make_plan(
        source,
        shards,
        options.plan,
        options.made,
        name=options.name or source.name,
        on_error=options.on_error,
    )
    return Planned(source=source, plan=plan, shards=shards, storage=options.storage)


def require_space(place: Path, needed: int) -> None:
    """Check that a file system has room.

    Raises:
        DataError: it has not.
    """
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(f"{place}: about {needed:,} bytes are needed, but {free:,} are free")
