"""What the runs are: a table of facts and one of settings, those in which the runs differ first."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from eval.pages.run_files import Line, Run
from train.config import PretrainConfig, flatten

_UNKNOWN = "not known"
_WHERE_ONLY = ("run_dir", "data.dir")
"""Settings that say where things lie, not what was done."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A name, and what each run has under it."""

    name: str
    cells: tuple[str, ...]


def fact_rows(runs: Sequence[Run]) -> list[Row]:
    """Encoder, data, length, speed, restarts, versions; a run of which one is not known says so."""
    of_runs = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for facts in of_runs for name in facts))
    return [Row(name=name, cells=tuple(facts.get(name, _UNKNOWN) for facts in of_runs)) for name in names]


def setting_rows(runs: Sequence[Run]) -> tuple[list[Row], list[Row]]:
    """Settings in which the runs differ, those that shape the result first; and all others, or where files lie."""
    of_runs = [run.settings for run in runs]
    differing: list[Row] = []
    agreeing: list[Row] = []
    for name in dict.fromkeys(name for settings in of_runs for name in settings):
        values = [settings.get(name) for settings in of_runs]
        differs = any(value != values[0] for value in values) and name not in _WHERE_ONLY
        (differing if differs else agreeing).append(Row(name=name, cells=tuple(map(_shown, values))))
    shaping = runs[0].config.numeric()
    return sorted(differing, key=lambda row: row.name not in shaping), agreeing


def changed_settings(run: Run) -> list[Row]:
    """Settings of a lone run that are not the program's defaults, with the default beside them."""
    defaults = flatten(asdict(PretrainConfig()))
    return [
        Row(name=name, cells=(_shown(value), _shown(defaults.get(name))))
        for name, value in run.settings.items()
        if value != defaults.get(name) and name not in _WHERE_ONLY
    ]


def seconds_in_steps(run: Run) -> float:
    """Of all steps that are logged, on rank 0: start-up and what was done twice after a crash are not among them."""
    return sum(_log_seconds(lines) for lines in run.logs)


def _facts(run: Run) -> dict[str, str]:
    config, encoder = run.config, run.encoder
    lines = [line for log in run.logs for line in log]
    facts = {}
    if run.evaluation is not None and (best := run.evaluation.best_frozen) is not None:
        low, high = best.interval
        facts["Best on the frozen encoder"] = (
            f"{100 * best.value:.1f} % ({100 * low:.1f} to {100 * high:.1f}), {best.title}"
        )
    facts |= {
        "Encoder": f"{config.encoder.name}, width {config.encoder.width:g}, {config.encoder.stem} stem",
        "Views": f"{config.views.size} px from canvases of {config.data.canvas} px",
        "Data directory": config.data.dir or _UNKNOWN,
    }
    if encoder:
        facts["Data"] = f"{encoder.get('data_name', '')} ({str(encoder.get('data_fingerprint', ''))[:12]})"
        facts["Images seen"] = _count(encoder.get("images_seen"))
    if lines:
        last = lines[-1]
        facts["Epochs"] = f"{last['epoch']:.4g} of {config.schedule.epochs}"
        facts["Updates"] = f"{last['step']:,.0f} of {config.global_batch:,} images"
        facts["Time in steps"] = _duration(seconds_in_steps(run))
        facts["Throughput"] = f"{statistics.median(line['images_per_second'] for line in lines):,.0f} images/s (median)"
        facts["Last loss"] = f"{last['loss']:.3f} nats"
        if last.get("probe_top1", float("nan")) >= 0:
            facts["Last online probe"] = f"{100 * last['probe_top1']:.1f} %"
    if run.starts:
        facts["Starts"] = "; ".join(_start(start) for start in run.starts)
    if run.evaluation is not None:
        evaluation = run.evaluation
        ranks = f", {evaluation.world_size} ranks" if evaluation.world_size > 1 else ""
        facts["Evaluated on"] = evaluation.hardware + ranks
        facts["Evaluated with"] = ", ".join(f"{name} {number}" for name, number in evaluation.versions.items())
        facts["Revision evaluated with"] = evaluation.git_revision or "not from a checkout"
    return facts


def _log_seconds(lines: Sequence[Line]) -> float:
    if not lines:
        return 0.0
    steps = [after["step"] - before["step"] for before, after in pairwise(lines)]
    first = min(lines[0]["step"], steps[0]) if steps else lines[0]["step"]
    return sum(
        count * sum(value for name, value in line.items() if name.startswith("stage_seconds."))
        for count, line in zip([first, *steps], lines, strict=True)
    )


def _start(start: dict[str, Any]) -> str:
    try:
        when = datetime.fromtimestamp(start["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")
        ranks = start["world_size"]
        return f"{when} at step {start['step']:,}, {ranks} rank{'s' if ranks > 1 else ''} on {start['host']}"
    except (KeyError, TypeError, ValueError, OverflowError):
        return "one that cannot be read"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else _UNKNOWN


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value or "(empty)"
    return json.dumps(value)
