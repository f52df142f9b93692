"""What is being built, as a file: a build that goes on, other parts of it, and `merge` hold theirs against it."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.build.shard_plan import PlanOptions, ShardPlan, shard_digest
from pipelines.build.sources import Fault, Source
from pipelines.errors import DataError


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """Everything but the shards themselves that the data set is made of."""

    settings: dict[str, Any]
    """Options that decide the shards' bytes; a build with others cannot go on."""
    shards: dict[str, list[str]]
    """Digests of the shards by split; their positions are their numbers."""
    name: str
    classes: tuple[str, ...]
    resize: str
    on_error: str
    """fail or skip."""
    faults: list[Fault]
    """Files that were refused by their names alone."""
    made: dict[str, Any]
    """For the manifest."""


def make_plan(
    source: Source, shards: list[ShardPlan], options: PlanOptions, made: dict[str, Any], *, name: str, on_error: str
) -> BuildPlan:
    """Describe a build.

    Args:
        source: to build from.
        shards: of all splits.
        options: with which they were planned.
        made: kind of the source, and what else the reader should find in the manifest.
        name: of the data set.
        on_error: fail or skip.
    """
    digests: dict[str, list[str]] = {}
    for shard in shards:
        digests.setdefault(shard.split, []).append(shard_digest(shard, source, options))
    settings = asdict(options)
    settings |= settings.pop("storage")
    return BuildPlan(
        settings={"source": made["source"], **settings},
        shards=digests,
        name=name,
        classes=source.classes,
        resize=source.resize if options.storage.resize == "none" else options.storage.resize,
        on_error=on_error,
        faults=source.faults,
        made={**made, **settings, "on_error": on_error, **({"metric": source.metric} if source.metric else {})},
    )


def adopt_plan(path: Path, plan: BuildPlan, *, alone: bool) -> str | None:
    """Write the plan's file, or hold the plan against the one that is there.

    Args:
        path: of the file.
        plan: of this build.
        alone: whether no other parts go by the file.

    Returns:
        What the user should know, if the file was there.

    Raises:
        DataError: the build that is there was begun with other options, or with another source and has other parts.
    """
    note = None
    if path.exists():
        found = read_plan(path)
        advice = f"use the same, or --restart to throw away what is in {path.parent}"
        for name, value in plan.settings.items():
            if found.settings.get(name) != value:
                raise DataError(f"{path.parent}: begun with {name} {found.settings.get(name)}, now {value}; {advice}")
        note = "going on with an earlier build"
        if found.shards != plan.shards:
            if not alone:
                raise DataError(f"{path.parent}: begun with another list of images in the source; {advice}")
            note += "; the list of images has changed, so shards that it concerns are written again"
    content = json.dumps(asdict(plan), indent=1)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(content)
    temporary.rename(path)
    return note


def read_plan(path: Path) -> BuildPlan:
    """Read a plan's file.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text())
        content["classes"] = tuple(content["classes"])
        content["faults"] = [Fault(**fault) for fault in content["faults"]]
        return BuildPlan(**content)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; no part of this build was begun") from None
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: damaged ({error}); begin again with --restart") from None
