"""What a benchmark says: the machine, a table per section, or the same as JSON."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ops.bench.measure import BenchConfig

_UNIT = "images/CPU-s"
_COLUMNS = f"{'lowest - highest':>26}{'CPU':>6}{'runs':>6}{'ours/it':>9}{'wanted':>12}"

_SETTINGS = ("repeats", "retries", "seconds", "warm_up_seconds", "least_utilisation")


def machine() -> dict[str, Any]:
    """Processor, cores that we may use, GPUs, and the time."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "gpus": gpus(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def gpus() -> list[str]:
    """Models that NVIDIA's driver names."""
    told = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    return [line.partition(":")[2].strip() for text in told for line in text.splitlines() if line.startswith("Model:")]


def show(report: dict[str, Any], config: BenchConfig, unit: str = _UNIT) -> None:
    """Print a report.

    Args:
        report: `machine`, and `sections`: what `compare` returned by title, or one line that says why a section was
            left out.
        config: whether as JSON.
        unit: of the rates.
    """
    if config.json:
        settings = {name: getattr(config, name) for name in _SETTINGS}
        print(json.dumps({**report, "settings": settings, "ratios": ratios(report)}, indent=1))
        return
    where = report["machine"]
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}")
    print(
        f"One core and a fresh process each; median of {config.repeats} runs of {config.seconds:g} s after a warm-up; "
        "runs: kept+rejected."
    )
    for title, section in report["sections"].items():
        print(f"\n{title}")
        print(section if isinstance(section, str) else "\n".join(table(section, unit)))


def table(section: dict[str, Any], unit: str = _UNIT) -> list[str]:
    """Lines, one per contestant."""
    return [f"{'':<44}{unit:>13}{_COLUMNS}", *(_row(name, entry) for name, entry in section.items())]


def rate_text(rate: float) -> str:
    """With a decimal below 100: at large images a few per second are all there are."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:,.1f}"


def ratios(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Ours to each other contestant by section, and what each was measured against."""
    return {
        title: {name: entry["ratio"] for name, entry in section.items() if "ratio" in entry}
        for title, section in report["sections"].items()
        if not isinstance(section, str)
    }


def _row(name: str, entry: dict[str, Any]) -> str:
    if "median" not in entry:
        return f"{name:<44}{entry['failure']}"
    versions = " ".join(entry["versions"].values())
    spread = f"{rate_text(entry['lowest'])} - {rate_text(entry['highest'])}"
    runs = f"{entry['kept']}+{entry['rejected']}"
    ratio = f"{entry['ratio']:.2f}" if "ratio" in entry else ""
    median = rate_text(entry["median"])
    return (
        f"{f'{name} {versions}'.rstrip():<44}{median:>13}{spread:>26}{entry['cpu_utilisation']:>6.2f}"
        f"{runs:>6}{ratio:>9}{_wanted(entry):>12}{'  noisy' if entry['noisy'] else ''}"
        f"{'  ' + entry['failure'] if 'failure' in entry else ''}"
    )


def _wanted(entry: dict[str, Any]) -> str:
    if "wanted_ratio" in entry:
        return f">= {entry['wanted_ratio']:g}"
    return f">= {entry['wanted_rate']:,.0f}" if "wanted_rate" in entry else ""
