"""What a batch of views costs by count and not by clock, ours beside Kornia's, and how far ours is from the floor."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ops.bench.measure import Answer, call_alone
from ops.bench.views_contestants import FLOOR, KORNIA, OURS, PLAIN, SAMPLE
from ops.bench.views_setting import Setting

Count = Callable[[str, dict[str, Any]], Answer]

_OPTIONS: dict[str, dict[str, Any] | None] = {
    OURS: PLAIN,
    SAMPLE: {**PLAIN, "jitter_order": "sample"},
    KORNIA: None,
}


def counted(setting: dict[str, Any], views_config: dict[str, Any] | None) -> dict[str, int]:
    """Count one batch each, after a first one.

    Args:
        setting: of `Setting`.
        views_config: of `ViewsConfig`; Kornia is counted if None.

    Returns:
        dispatches, bytes_moved and peak_bytes, as in `counting`, and output_bytes.
    """
    from ops.bench import views_kornia, views_ours
    from ops.bench.counting import bytes_moved, dispatches, peak_bytes
    from ops.bench.views_input import one_thread

    one_thread()
    asked = Setting(**setting)
    make: Callable[[], object] = (
        views_kornia.maker(asked) if views_config is None else views_ours.maker(asked, views_config)
    )
    make()
    return {
        "dispatches": dispatches(make),
        "bytes_moved": bytes_moved(make),
        "peak_bytes": peak_bytes(make),
        "output_bytes": asked.view_bytes,
    }


def work(setting: Setting, section: dict[str, Any], count: Count | None = None) -> dict[str, Any]:
    """Counts and distances.

    Args:
        setting: of the section.
        section: what `compare` returned.
        count: calls `counted` with options; by default in a fresh process.

    Returns:
        By name of who was counted: what `counted` returns, or `failure`; and floor_ratio, how many times as fast the
        floor is, None if that is not known.
    """
    count = count or call_alone
    told: dict[str, Any] = {}
    floor = section.get(FLOOR, {}).get("median")
    for name, views_config in _OPTIONS.items():
        answer = count(f"{__name__}:counted", {"setting": asdict(setting), "views_config": views_config})
        rate = section.get(name, {}).get("median")
        entry = answer.get("made") or {"failure": answer.get("missing") or answer["error"]}
        told[name] = {**entry, "floor_ratio": floor / rate if floor and rate else None}
    return told


def work_lines(works: dict[str, dict[str, Any]]) -> str:
    """A table of what `work` returned by section."""
    lines = [f"{'':<40}{'dispatches':>12}{'MB moved':>12}{'peak / output':>15}{'floor / it':>12}"]
    for title, told in works.items():
        for name, entry in told.items():
            distance = "-" if entry["floor_ratio"] is None else f"{entry['floor_ratio']:.0f}"
            row = f"{title.partition(':')[0] + '  ' + name:<40}"
            if "failure" in entry:
                lines.append(row + entry["failure"])
                continue
            peak = entry["peak_bytes"] / entry["output_bytes"]
            lines.append(
                f"{row}{entry['dispatches']:>12,}{entry['bytes_moved'] / 1e6:>12,.0f}{peak:>15.2f}{distance:>12}"
            )
    return "\n".join(lines)
