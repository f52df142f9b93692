"""What all benchmarks measured as a Markdown page and a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ops.bench import scaling
from ops.bench.roofline import Roofline, roofline_lines
from ops.bench.tables import rate_text

Report = dict[str, Any]
_UNITS = {
    "loader": "images per CPU-second, one core",
    "augment": "views per CPU-second, one core",
    "loss": "rows per CPU-second, one core",
    "lars": "updates per CPU-second, one core",
    "step": "images per second, all cores",
    "end_to_end": "images per second, all cores",
    "end_to_end_224": "images per second, all cores",
    "learn": "top-1 of the test images in per cent; one training each, one after another, with all cores",
}
_NO_GPU = "Nothing here was measured on a GPU."


def written(reports: Mapping[str, Report], stem: str) -> str:
    """The page; each report has its `command`; `stem` is the name of figure and JSON beside it, without ending."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m ops.bench all`. Contestants alternate, each in a process of its own; medians, and the",
        "lowest and highest run. `ours/it`: how many times as fast ours is. Memory: of the host, the peaks of all",
        "processes of a contestant, pages that they share counted once.",
        f"[{stem}.json]({stem}.json) has every number.",
        *([] if any(report["machine"].get("gpus") for report in reports.values()) else ["", _NO_GPU]),
        "",
        f"![How many times as fast ours is, by contestant]({stem}.png)",
    ]
    for name, report in reports.items():
        where = report["machine"]
        command = " ".join(report["command"])
        lines += ["", f"## {name}", "", f"`python -m ops.bench {command}`", ""]
        gpus = ", ".join(where.get("gpus", [])) or "no GPU"
        lines += [
            f"{where['cpu']}, {where['cores']} cores, {gpus}, {where['date']}; {_UNITS.get(name, '')}".rstrip("; ")
        ]
        for title, entries in rates(name, report).items():
            lines += ["", f"**{title}**", ""] if title else [""]
            lines += _table(entries)
        if name == "scaling":
            lines += ["", "```", *scaling.lines(report), "```"]
        if "roofline" in report:
            limits = {key: value for key, value in report["roofline"].items() if key != "mfu"}
            rate = report["whole step"]["median"]
            lines += ["", "```", *roofline_lines(Roofline(**limits), rate), "```"]
        if "learnt" in report:
            lines += ["", *_learnt(report["learnt"]), "", f"![kNN top-1 by seconds of training]({stem}-{name}.png)"]
        told = {title: line for title, line in report.get("sections", {}).items() if isinstance(line, str)}
        lines += [line for title, text in told.items() for line in ("", f"**{title}**: {text}")]
    return "\n".join(lines) + "\n"


def rates(name: str, report: Report) -> dict[str, dict[str, Report]]:
    """Contestants of a benchmark by section: each has median, lowest and highest, and perhaps ratio; or failure."""
    if "sections" in report:
        return {title: section for title, section in report["sections"].items() if isinstance(section, dict)}
    if "rates" in report:
        return {"": report["rates"]}
    if name == "step":
        bound = report["bound"] | {"ratio": report["ratio"]}
        return {"": {"whole step": report["whole step"], "bound: views in memory": bound}}
    return {}


def draw(reports: Mapping[str, Report], path: Path) -> None:
    """Bars of the ratios from 1, on a logarithmic axis; without the floors, which a hundredth of ours may be."""
    bars = [
        (f"{name}{', ' if title else ''}{title}: {contestant}", entry["ratio"])
        for name, report in reports.items()
        for title, entries in rates(name, report).items()
        for contestant, entry in entries.items()
        if "ratio" in entry and not contestant.startswith("floor")
    ]
    figure, axes = _one_plot(9, 1.2 + 0.22 * len(bars))
    names, ratios = [name for name, _ in bars], [ratio for _, ratio in bars]
    colours = ["#31688e" if ratio >= 1 else "#c0504d" for ratio in ratios]
    drawn = axes.barh(names, [ratio - 1 for ratio in ratios], left=1, color=colours)
    axes.bar_label(drawn, [f"{ratio:.2f}" for ratio in ratios], padding=2, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xticks([0.5, 1, 2, 5, 10, 20])
    axes.minorticks_off()
    axes.margins(x=0.1, y=0.01)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("speed of ours over that of the contestant")
    figure.savefig(path, dpi=120)


def draw_learnt(report: Report, path: Path) -> None:
    """Draw kNN top-1 after each epoch over the seconds of training until then."""
    figure, axes = _one_plot(7, 4)
    for name, entry in report["learnt"].items():
        if "epochs" in entry:
            seconds = [epoch["seconds"] for epoch in entry["epochs"]]
            top1 = [100 * epoch["knn"] for epoch in entry["epochs"]]
            axes.plot(seconds, top1, marker="o", linewidth=2.5 if name == "ours" else 1.2, label=name)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("kNN top-1 of the test images, per cent")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _one_plot(width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _table(entries: Mapping[str, Report]) -> list[str]:
    memory = any("memory_bytes" in entry for entry in entries.values())
    more = " memory |" if memory else ""
    rows = [
        f"| contestant | versions | median | lowest to highest | ours/it |{more}",
        "|---|---|" + "---:|" * (3 + memory),
    ]
    for name, entry in entries.items():
        if "median" not in entry:
            rows.append(f"| {name} | {entry['failure']} | | | |{' |' if memory else ''}")
            continue
        versions = _versions(entry)
        ratio = f"{entry['ratio']:.2f}" if "ratio" in entry else ""
        noisy = " (noisy)" if entry.get("noisy") else ""
        spread = f"{rate_text(entry['lowest'])} to {rate_text(entry['highest'])}{noisy}"
        held = f" {entry['memory_bytes'] / 1e9:.2f} GB |" if memory else ""
        rows.append(f"| {name} | {versions} | {rate_text(entry['median'])} | {spread} | {ratio} |{held}")
    return rows


def _learnt(entries: Mapping[str, Report]) -> list[str]:
    """Scores after each epoch and at the end, seconds to get there, and the memory of all processes."""
    wanted = list(next((entry["seconds_to"] for entry in entries.values() if "epochs" in entry), {}))
    times = "".join(f" s to {100 * float(top1):g} % |" for top1 in wanted)
    rows = [
        f"| contestant | versions | kNN by epoch | linear | s/epoch | memory |{times}",
        "|---|---|---|" + "---:|" * (3 + len(wanted)),
    ]
    for name, entry in entries.items():
        if "epochs" not in entry:
            rows.append(f"| {name} | {entry['failure']} | | | | |{' |' * len(wanted)}")
            continue
        epochs = entry["epochs"]
        by_epoch = ", ".join(f"{100 * epoch['knn']:.1f}" for epoch in epochs)
        reached = " | ".join(
            "not reached" if seconds is None else f"{seconds:,.0f}" for seconds in entry["seconds_to"].values()
        )
        memory = f"{max(epoch['memory_bytes'] for epoch in epochs) / 1e9:.2f} GB"
        each = epochs[-1]["seconds"] / len(epochs)
        linear = f"{100 * entry['linear']:.1f}"
        rows.append(f"| {name} | {_versions(entry)} | {by_epoch} | {linear} | {each:,.0f} | {memory} | {reached} |")
    return rows


def _versions(entry: Report) -> str:
    return ", ".join(f"{key} {value}" for key, value in entry.get("versions", {}).items())
