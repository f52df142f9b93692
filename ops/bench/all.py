"""Every benchmark, one after another, and a page of what they measured: `python -m ops.bench all`.

    python -m ops.bench all --base train/configs/cifar10_cpu.yaml --data_dir data/cifar10 --imagenet DIR \
      --peer_python peers/bin/python --page docs/results/benchmarks.md

Each is a process of its own. What one printed as JSON is kept in WORK/reports/NAME.json, and is not measured again by
the same flags; remove it, or name another `work`, to have it anew. A benchmark that fails is told and left out.
The page comes with figures, and with the reports as JSON, from which it was written.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse.typing import NonNegativeInt

from model.native_precision import native_precision
from ops.bench.measure import ALLOCATOR
from ops.bench.page import draw, draw_learnt, written
from ops.bench.prepared import imagenet_canvases
from ops.bench.tables import machine
from train.arguments import parse
from train.distributed import fail
from train.errors import RunError

_CANVAS = 256
_LARGE = (
    *("--encoder.name", "resnet18", "--global_batch", "64", "--seconds", "30", "--repeats", "3"),
    *("--views.reference", "torchvision", "--views.interpolation", "bilinear"),
)
"""What makes of train/configs/imagenet.yaml a run whose updates take seconds on a few cores, with the peers' views."""


@dataclass(frozen=True, kw_only=True)
class AllBenchConfig:
    """On what, and where it is told."""

    base: str = "train/configs/cifar10_cpu.yaml"
    """Of the run whose step, views and learning are measured."""
    data_dir: str = ""
    """Data set directory of 32-pixel JPEGs."""
    imagenet: str = ""
    """Directory with ImageNet's official files; what needs them is left out if empty."""
    work: str = "data/bench"
    """Where forms of the images, encoders and reports are kept."""
    peer_python: str = sys.executable
    """Interpreter in which the peers are installed."""
    learn_epochs: NonNegativeInt = 6
    """Of `learn`, the whole trainings that are scored, with a tenth of them for the warm-up; 0 leaves them out."""
    learn_only: str = ""
    """As `only` of `end_to_end`, for `learn`."""
    only: str = ""
    """Names of benchmarks, separated by commas; empty for all."""
    page: str = ""
    """Markdown file to write, with figures and the reports as JSON beside it."""
    json: bool = False
    """Print all reports as one JSON object."""


def main(arguments: Sequence[str]) -> None:
    """Measure what is not measured yet, then write the page."""
    try:
        config = parse(AllBenchConfig, arguments, prog="bench all")
        asked = commands(config)
        if "end_to_end_224" in asked:
            imagenet_canvases(Path(config.imagenet).resolve(), Path(config.work).resolve(), _CANVAS)
        reports = {name: report for name, command in asked.items() if (report := measured(name, command, config.work))}
        if config.page:
            page = Path(config.page)
            page.parent.mkdir(parents=True, exist_ok=True)
            draw(reports, page.with_suffix(".png"))
            if "learn" in reports:
                draw_learnt(reports["learn"], page.with_name(f"{page.stem}-learn.png"))
            page.with_suffix(".json").write_text(json.dumps(reports, indent=1) + "\n")
            page.write_text(written(reports, page.stem))
    except RunError as error:
        fail("bench all", error, show=True)
    if config.json:
        print(json.dumps({"machine": machine(), **reports}, indent=1))
    if len(reports) < len(asked):
        sys.exit(1)


def commands(config: AllBenchConfig) -> dict[str, list[str]]:
    """A benchmark and its flags, by the name of the report.

    Raises:
        RunError: no data are named, or a benchmark that does not exist.
    """
    if not config.data_dir:
        raise RunError("data_dir: no data set named; build one with `python -m pipelines.build_shards`")
    run = ["--config", config.base, "--data.dir", config.data_dir]
    peers = ["--peer_python", config.peer_python]
    kept = ["--work", config.work]
    raw = ["--imagenet", config.imagenet] if config.imagenet else []
    everything = {
        "loader": ["loader", "--cifar", config.data_dir, *raw, *kept, *peers],
        "augment": ["augment", *peers],
        "loss": ["loss", *peers],
        "lars": ["lars", *peers],
        "step": ["step", *run],
        "scaling": ["scaling", *run],
        "end_to_end": ["end_to_end", *run, *kept, *peers],
    }
    if config.imagenet:
        canvases = Path(config.work) / f"imagenet-{_CANVAS}"
        run_on_canvases = ["--config", "train/configs/imagenet.yaml", "--data.dir", str(canvases), *_LARGE]
        ours = ["--only", native_precision("auto")]
        everything["end_to_end_224"] = ["end_to_end", *run_on_canvases, *ours, *kept, *peers]
    if config.learn_epochs:
        schedule = ["--schedule.epochs", f"{config.learn_epochs}"]
        schedule += ["--schedule.warmup_epochs", f"{config.learn_epochs / 10:g}"]
        some = ["--only", config.learn_only] if config.learn_only else []
        everything["learn"] = ["end_to_end", *run, *schedule, "--learn", "true", *some, *kept, *peers]
    names = [name.strip() for name in config.only.split(",") if name.strip()] or list(everything)
    for name in names:
        if name not in everything:
            raise RunError(f"only: {name!r} is none of {', '.join(everything)}")
    return {name: everything[name] for name in names}


def measured(name: str, command: Sequence[str], work: str) -> dict[str, Any] | None:
    """A benchmark's report, with its `command`: the one that is kept, or a new one, which is kept then.

    Returns:
        None if it fails.
    """
    path = Path(work) / "reports" / f"{name}.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept.get("command") == list(command):
            return kept
    print(f"bench all: {name}", file=sys.stderr, flush=True)
    asked = [sys.executable, "-m", "ops.bench", *command, "--json=true"]
    done = subprocess.run(  # noqa: S603  # our own module
        asked, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, **ALLOCATOR}
    )
    if done.returncode:
        print(f"bench all: {name} failed with exit status {done.returncode}", file=sys.stderr)
        return None
    report: dict[str, Any] = json.loads(done.stdout)
    report.setdefault("machine", machine())
    report["command"] = list(command)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1))
    partial.replace(path)
    return report
