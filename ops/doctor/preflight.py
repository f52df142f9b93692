"""Can the run begin, and go on to its end, on this machine? A line a check, nothing measured, nothing written.

Under a launcher every rank looks at its own node; rank 0 says what was found, with the ranks that a line is about.
"""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from ops.doctor.config import DoctorConfig
from ops.doctor.finding import Finding, fine, wrong
from ops.doctor.preflight_data import open_or_say
from ops.doctor.preflight_disks import check_disks
from ops.doctor.preflight_machine import check_compiler, check_device, check_ports, check_versions
from pipelines.manifest import SplitIndex
from train.checkpoint_files import list_checkpoints
from train.distributed import environment_rank, environment_world_size
from train.errors import RunError
from train.resume_check import check_run_directory

_MOST_STARTUP_SECONDS = 120.0
"""For ranks to meet: this is a check, and somebody waits for it."""


def preflight(config: DoctorConfig) -> bool:
    """Check everything, and print it on rank 0.

    Returns:
        Whether nothing was found that would stop the run; the same on all ranks that meet.
    """
    split, findings = open_or_say(config)
    findings += [*check_run(config), *check_disks(config, split)]
    findings += [*check_ports(config), *check_versions(config), *check_compiler(config), *check_device(config)]
    findings += check_batch(config)
    findings, met = meet(config, split, findings)
    failed = any(finding.level == "FAIL" for finding in findings)
    if environment_rank() == 0 or not met:
        if config.json:
            print(json.dumps({"ok": not failed, "checks": [asdict(finding) for finding in findings]}), flush=True)
        else:
            print("\n".join(str(finding) for finding in findings), flush=True)
    return not failed


def check_run(config: DoctorConfig) -> list[Finding]:
    """Does the run directory hold another run?"""
    checkpoints = list_checkpoints(Path(config.run_dir) / "checkpoints")
    try:
        check_run_directory(config)
    except RunError as error:
        return [wrong("run", str(error))]
    if checkpoints and config.resume == "never":
        what = f"{config.run_dir}: has {checkpoints[0].name}, which resume = never refuses; name another --run_dir"
        return [wrong("run", what)]
    what = f"has {checkpoints[0].name}, to go on from" if checkpoints else "no checkpoint yet"
    return [fine("run", f"{config.run_dir}: {what}")]


def check_batch(config: DoctorConfig) -> list[Finding]:
    """Can the ranks share the batch equally?"""
    try:
        world_size = environment_world_size()
    except RunError as error:
        return [wrong("world", str(error))]
    if config.global_batch % world_size:
        below = config.global_batch // world_size * world_size
        near = " or ".join(str(batch) for batch in (below, below + world_size) if batch)
        what = f"global_batch = {config.global_batch}: not divisible by the {world_size} ranks; use {near}"
        return [wrong("world", what)]
    local = config.global_batch // world_size
    return [fine("world", f"{world_size} rank{'s' if world_size > 1 else ''} of {local} images a step each")]


def meet(config: DoctorConfig, split: SplitIndex | None, findings: list[Finding]) -> tuple[list[Finding], bool]:
    """Bring the findings of all ranks together, if they can meet, and compare what they are about to run.

    Returns:
        Findings of all ranks, each once, and whether the ranks met.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return findings, True
    from train.ranks import join_ranks, leave_ranks
    from train.same_everywhere import refuse_differing_ranks

    seconds = min(config.timeouts.startup_seconds, _MOST_STARTUP_SECONDS)
    try:
        ranks = join_ranks(replace(config, timeouts=replace(config.timeouts, startup_seconds=seconds)))
    except (RunError, RuntimeError) as error:
        return [*findings, wrong("world", " ".join(str(error).split()))], False
    texts = ranks.texts(json.dumps([asdict(finding) for finding in findings]))
    merged = merge([[Finding(**entry) for entry in json.loads(text)] for text in texts])
    (blind,) = ranks.most([split is None])
    if split is not None and not blind:
        try:
            refuse_differing_ranks(config, split, ranks)
            merged.append(fine("world", "all ranks met, with the same program, configuration and data"))
        except RunError as error:
            merged.append(wrong("world", str(error)))
    leave_ranks()
    return merged, True


def merge(everyone: list[list[Finding]]) -> list[Finding]:
    """Findings of all ranks: what all say once, what some say with their numbers."""
    merged = []
    for finding in dict.fromkeys(finding for findings in everyone for finding in findings):
        ranks = [rank for rank, findings in enumerate(everyone) if finding in findings]
        if len(ranks) == len(everyone):
            merged.append(finding)
        else:
            which = ", ".join(map(str, ranks))
            merged.append(replace(finding, what=f"rank{'s' if len(ranks) > 1 else ''} {which}: {finding.what}"))
    return merged
