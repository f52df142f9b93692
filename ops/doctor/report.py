"""What the doctor says: text for a person, one JSON object for a script."""

from dataclasses import asdict
from typing import Any

from ops.doctor.config import DoctorConfig
from ops.doctor.diagnosis import STARVED_SHARE, Verdict
from ops.doctor.examine import Findings

_FORMAT_VERSION = 1


def as_json(
    config: DoctorConfig, findings: Findings, advice: list[str], hardware: dict[str, Any], versions: dict[str, str]
) -> dict[str, Any]:
    """Everything; docs/tuning.md says what each field means."""
    diagnosis, reading = findings.diagnosis, findings.reading
    main = diagnosis.main
    return {
        "version": _FORMAT_VERSION,
        "bottleneck": main.bottleneck,
        "images_per_second": main.images_per_second,
        "hours": diagnosis.hours,
        "starved": main.starved,
        "phase": main.phase.name,
        "phases": {verdict.phase.name: _phase(verdict) for verdict in diagnosis.phases},
        "stages": {
            name: None if seconds is None else {"seconds": seconds, "images_per_second": _rate(findings, seconds)}
            for name, seconds in findings.alone.seconds.items()
        },
        "kept": asdict(findings.kept),
        "page_cache": {"cached_before": reading.cached_share, "uncached_when_read_cold": reading.cold_share},
        "stragglers": [asdict(one) for one in findings.stragglers],
        "run": {
            **asdict(findings.length),
            "epochs": findings.length.steps / findings.length.steps_per_epoch,
            "world_size": findings.world_size,
            "ranks_on_node": findings.ranks_on_node,
            "device": findings.device,
            "gradient_bytes": findings.gradient_bytes,
            "seconds": config.seconds,
        },
        "advice": advice,
        "hardware": hardware,
        "versions": versions,
    }


def as_text(
    config: DoctorConfig, findings: Findings, advice: list[str], hardware: dict[str, Any], versions: dict[str, str]
) -> str:
    """A screenful."""
    diagnosis, length = findings.diagnosis, findings.length
    main = diagnosis.main
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    ranks = f"{findings.world_size} rank{'s' if findings.world_size > 1 else ''}"
    lines = [
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_bytes'] / 2**30:.0f} GiB, {gpus}",
        f"torch {versions['torch']}, DALI {versions['nvidia-dali-cuda130']}; {ranks} on {findings.device}; "
        f"{config.encoder.name} x{config.encoder.width:g}, {config.precision}, global batch {length.global_batch}",
        "",
        f"{'each alone':<16}{'ms/step':>10}{'images/s':>11}",
        *(
            f"{label:<16}{milliseconds:>10}{rate:>11}  {remark}".rstrip()
            for label, milliseconds, rate, remark in _rows(config, findings)
        ),
        "",
        f"{'together':<16}{'ms/step':>10}{'images/s':>11}{'waits':>8}  bottleneck",
        *(_line(verdict) for verdict in diagnosis.phases),
        "",
        f"bottleneck: {main.bottleneck} ({_why(main)})",
        f"prediction: {_rate_text(main.images_per_second)} images/s; {_duration(diagnosis.hours)} for "
        f"{length.steps:,} steps, {length.steps / length.steps_per_epoch:.4g} epochs",
        f"without this bottleneck: {main.next_bottleneck} would be next, at {_rate_text(main.ceiling)} images/s",
        "",
        "what to change:",
        *(f"- {line}" for line in advice),
    ]
    return "\n".join(lines)


def _rows(config: DoctorConfig, findings: Findings) -> list[tuple[str, str, str, str]]:
    seconds, reading, kept = findings.alone.seconds, findings.reading, findings.kept
    cold = "" if reading.cold_share is None else f"{reading.cold_share:.0%} of it not in the page cache"
    by_range = "by ranged requests"
    remarks = {
        "storage, cold": by_range if kept.source == "ranges" else cold,
        "storage, warm": "from the page cache",
        "storage, fetch": "copying shards from afar",
        "decode": f"{config.data.decode_threads} thread{'s' if config.data.decode_threads > 1 else ''}",
        "draw": "part of augment, on the host",
        "augment": f"{config.views.engine}, {config.views.size} pixels",
        "transfer": "gathering kept canvases" if kept.canvases != "none" else "encoded bytes to the device",
        "step": "model, loss, optimizer; views in memory",
        "all_reduce": f"{findings.gradient_bytes / 2**20:.1f} MiB of gradients",
        "not hidden": "what all_reduce adds to the step",
    }
    fields = {
        "storage, cold": "storage_cold",
        "storage, warm": "storage_warm",
        "storage, fetch": "fetch",
        "not hidden": "all_reduce_exposed",
    }
    absent = {"transfer": "no copy on the CPU", "all_reduce": "one process"}
    rows = []
    for label, remark in remarks.items():
        value = seconds.get(fields.get(label, label))
        if value is not None:
            rows.append((label, f"{1000 * value:,.1f}", _rate_text(_rate(findings, value)), remark))
        elif label in absent:
            rows.append((label, "n/a", "", absent[label]))
    return rows


def _line(verdict: Verdict) -> str:
    phase = verdict.phase
    note = verdict.bottleneck if phase.steps else f"{verdict.bottleneck} (reckoned, not measured)"
    return (
        f"{phase.name:<16}{1000 * phase.step_seconds:>10,.1f}{_rate_text(verdict.images_per_second):>11}"
        f"{phase.wait_share:>8.0%}  {note}"
    )


def _why(verdict: Verdict) -> str:
    share = f"training waits for batches {verdict.phase.wait_share:.0%} of the time in {verdict.phase.name}"
    if verdict.starved:
        return f"{share}, and this takes the loader longest"
    if verdict.of_loader:
        return f"{share}, but shares its cores with the loader, which has more to do, and this most of all"
    return f"{share}, under {STARVED_SHARE:.0%}, and this takes it longest"


def _phase(verdict: Verdict) -> dict[str, Any]:
    phase = verdict.phase
    return {
        "bottleneck": verdict.bottleneck,
        "starved": verdict.starved,
        "images_per_second": verdict.images_per_second,
        "hours": verdict.hours,
        "step_seconds": phase.step_seconds,
        "wait_share": phase.wait_share,
        "loader_seconds": dict(phase.loader_seconds),
        "loader_alone_seconds": phase.loader_alone_seconds,
        "steps_timed": phase.steps,
        "next_bottleneck": verdict.next_bottleneck,
        "images_per_second_at_most": verdict.ceiling,
    }


def _rate(findings: Findings, seconds: float) -> float | None:
    """Images a second; None where a stage takes no time, such as a reduction that backward hides."""
    return findings.length.global_batch / seconds if seconds > 0 else None


def _rate_text(rate: float | None) -> str:
    if rate is None:
        return ""
    return f"{rate:,.0f}" if rate >= 99.5 else f"{rate:.3g}"


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.1f} seconds"
