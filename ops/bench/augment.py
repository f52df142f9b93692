"""Our views beside those that others make of the same canvases: `python -m ops.bench augment`.

Every contestant makes two views of each image of a batch, float32 in memory, on one core with one thread: crop and
resize, flip, colour jitter, grayscale, and at 224 pixels blur. Ours draws and plans every batch anew. Where its name
says nothing else it computes eagerly, by the formulas of torchvision and Kornia, and draws one order of the colour
operations for the whole batch, as they do.

Lightly is in the extra `bench`; it can also have an environment of its own, named by `--peer_python`:

    python3.11 -m venv peers
    peers/bin/pip install -c constraints.txt torch torchvision pillow lightly==1.6.0
    python -m ops.bench augment --peer_python peers/bin/python
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ops.bench.measure import BenchConfig, Contestant, Run, compare
from ops.bench.tables import machine, show
from ops.bench.views_contestants import FLOOR, contestants
from ops.bench.views_setting import Setting
from ops.bench.views_wanted import WANTED, wanted_lines, wanted_ratios
from ops.bench.views_work import Count, work, work_lines
from train.arguments import parse
from train.distributed import fail
from train.errors import RunError

_SETTINGS = {
    "32": Setting(
        title="32 px: 512 images",
        images=512,
        canvas=32,
        height=32,
        width=32,
        size=32,
        strength=0.5,
        blur=0.0,
    ),
    "224": Setting(
        title="224 px: 32 images from a canvas of 256",
        images=32,
        canvas=256,
        height=375,
        width=500,
        size=224,
        strength=1.0,
        blur=0.5,
    ),
}


@dataclass(frozen=True, kw_only=True)
class AugmentBenchConfig(BenchConfig):
    """Which views, and how they are measured."""

    sizes: str = ",".join(_SETTINGS)
    """Of the views in pixels, separated by commas."""
    peer_python: str = sys.executable
    """Interpreter in which lightly is installed."""
    only: str = ""
    """Measure beside ours and the floor only those whose names contain one of these words, separated by commas."""


def main(arguments: Sequence[str]) -> None:
    """Measure, and print how ours stands to each other contestant, to what was wanted and to the floor."""
    try:
        config = parse(AugmentBenchConfig, arguments, prog="bench augment")
        show({"machine": machine(), **compared(config)}, config, unit="views/CPU-s")
    except RunError as error:
        fail("bench augment", error, show=True)


def compared(config: AugmentBenchConfig, run: Run | None = None, count: Count | None = None) -> dict[str, Any]:
    """What was measured.

    Args:
        config: what and how.
        run: as `measure` takes it.
        count: as `work` takes it.

    Returns:
        `sections` as `show` takes them; `wanted`, ratios and whether they hold; `work` by section. Without JSON the
        latter two are sections as well, as lines.

    Raises:
        RunError: a size that has no section.
    """
    sections: dict[str, Any] = {}
    wanted: list[dict[str, Any]] = []
    works: dict[str, Any] = {}
    for setting in _asked(config.sizes):
        everyone = contestants(setting, WANTED[setting.size].eager, config.peer_python)
        section = compare(_picked(everyone, config.only), config, run)
        sections[setting.title] = section
        wanted += wanted_ratios(setting, section)
        works[setting.title] = work(setting, section, count)
    if config.json:
        return {"sections": sections, "wanted": wanted, "work": works}
    return {"sections": {**sections, "Wanted": wanted_lines(wanted), "Work of a batch": work_lines(works)}}


def _asked(sizes: str) -> list[Setting]:
    names = [name.strip() for name in sizes.split(",")]
    for name in names:
        if name not in _SETTINGS:
            raise RunError(f"sizes: {name!r} is none of {', '.join(_SETTINGS)}")
    return [_SETTINGS[name] for name in names]


def _picked(everyone: list[Contestant], only: str) -> list[Contestant]:
    words = [word.strip().lower() for word in only.split(",")]
    first, *others = everyone
    return [first, *(one for one in others if one.name == FLOOR or any(word in one.name.lower() for word in words))]
