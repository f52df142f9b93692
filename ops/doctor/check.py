"""The doctor beside real runs: `python -m ops.doctor.check`.

Three settings, each with one starved stage: large JPEGs decoded by one thread, shards from a server that sends slowly,
a large encoder. In turns, so that a slow minute of the machine meets both, the doctor predicts and `train/pretrain.py`
runs with the same flags; printed is what it predicted and what the run's metrics.jsonl says, warm-up left out. Its exit
status is 1 if a bottleneck was misnamed or a median prediction is further off than `tolerance`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from jsonargparse.typing import PositiveFloat, PositiveInt
from PIL import Image

from ops.doctor.throttled_server import throttled_server
from train.arguments import parse
from train.distributed import fail
from train.errors import RunError

_ROOT = Path(__file__).resolve().parents[2]
_BATCH = 32
_IMAGES = 4 * _BATCH
_STEPS_A_LINE = 4
_WARM_UP_LINES = 2
_SMALL = ("--encoder.name=resnet18", "--encoder.stem=imagenet", "--encoder.width=0.0625", "--views.size=32")
_LARGE = ("--encoder.name=resnet50", "--encoder.stem=imagenet", "--views.size=64")
_RUN = (
    f"--global_batch={_BATCH}",
    "--data.canvas=64",
    "--data.decode_threads=1",
    "--views.reference=torchvision",
    "--schedule.epochs=1000",
    "--schedule.warmup_epochs=0",
    "--optimizer.base_lr=1",
    "--checkpoint.every_steps=1000000",
    f"--metrics.log_every_steps={_STEPS_A_LINE}",
    "--metrics.port=0",
)


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """How the doctor is held against real runs."""

    repeats: PositiveInt = 5
    """Of doctor and run in each setting, in turns."""
    seconds: PositiveFloat = 20.0
    """That the doctor trains for, and about the length of a real run."""
    tolerance: PositiveFloat = 0.1
    """Most that the median prediction may be off; 0.2 on a machine with busy neighbours."""
    bytes_per_second: PositiveFloat = 6e6
    """Of the slow server."""
    only: str = ""
    """decode, storage or step; all if empty."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One starved stage."""

    starved: str
    flags: tuple[str, ...]


@dataclass(kw_only=True)
class Outcome:
    """Of one setting, by repeat."""

    named: list[str] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    real: list[float] = field(default_factory=list)

    def error(self) -> float:
        """Of the median prediction, as a share of the median of the real runs."""
        return median(self.predicted) / median(self.real) - 1


def main() -> None:
    """Run all, and print a line each."""
    try:
        config = parse(CheckConfig, sys.argv[1:], prog="doctor check")
        with ExitStack() as stack:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="doctor-check-")))
            shards = build_shards(work)
            url = stack.enter_context(throttled_server(shards, config.bytes_per_second))
            outcomes = {setting.starved: Outcome() for setting in settings(shards, url, config.only)}
            for repeat in range(config.repeats):
                for setting in settings(shards, url, config.only):
                    run_dir = work / f"{setting.starved}-{repeat}"
                    add(outcomes[setting.starved], setting, config.seconds, run_dir)
                    print(line(setting.starved, outcomes[setting.starved]), flush=True)
    except RunError as error:
        fail("doctor check", error, show=True)
    print(f"\nmedians of {config.repeats}")
    for starved, outcome in outcomes.items():
        print(f"{line(starved, outcome, median_of_all=True)}, {outcome.error():+.1%}")
    sys.exit(0 if all(is_right(starved, outcome, config.tolerance) for starved, outcome in outcomes.items()) else 1)


def settings(shards: Path, url: str, only: str) -> list[Setting]:
    """All, or the one asked for.

    Raises:
        RunError: there is no such one.
    """
    local, remote = f"--data.dir={shards}", f"--data.dir={url}"
    known = [
        Setting(starved="decode", flags=(*_SMALL, local, "--data.cache=none")),
        Setting(starved="storage", flags=(*_SMALL, remote, "--data.cache=none", "--data.remote=ranges")),
        Setting(starved="step", flags=(*_LARGE, local)),
    ]
    chosen = [setting for setting in known if only in ("", setting.starved)]
    if not chosen:
        raise RunError(f"only = {only}: not one of decode, storage, step")
    return chosen


def add(outcome: Outcome, setting: Setting, seconds: float, run_dir: Path) -> None:
    """Let the doctor predict, then train for about as long.

    Raises:
        RunError: either failed.
    """
    flags = [*_RUN, *setting.flags, f"--run_dir={run_dir}"]
    told = json.loads(_output(["-m", "ops.doctor", "--json", f"--seconds={seconds}", *flags]))
    outcome.named.append(told["bottleneck"])
    outcome.predicted.append(told["images_per_second"])
    lines = max(_WARM_UP_LINES + 3, round(told["images_per_second"] * seconds / _BATCH / _STEPS_A_LINE))
    _output(["train/pretrain.py", *flags, f"--stop_after_steps={lines * _STEPS_A_LINE}"])
    written = [json.loads(text) for text in (run_dir / "metrics.jsonl").read_text().splitlines()]
    outcome.real.append(median(entry["images_per_second"] for entry in written[_WARM_UP_LINES:]))


def is_right(starved: str, outcome: Outcome, tolerance: float) -> bool:
    """Whether the stage was named each time, and the prediction is near."""
    return set(outcome.named) == {starved} and abs(outcome.error()) <= tolerance


def line(starved: str, outcome: Outcome, *, median_of_all: bool = False) -> str:
    """The last repeat, or the medians."""
    predicted = median(outcome.predicted) if median_of_all else outcome.predicted[-1]
    real = median(outcome.real) if median_of_all else outcome.real[-1]
    named = "/".join(sorted(set(outcome.named))) if median_of_all else outcome.named[-1]
    return f"{starved} starved, {named} named: predicted {predicted:,.1f} images/s, the run reached {real:,.1f}"


def build_shards(work: Path) -> Path:
    """A data set of JPEGs of 1280 x 960 with as much detail as photographs have, some 250 kB each."""
    source = work / "images"
    for number, image in enumerate(images(_IMAGES)):
        path = source / "train" / f"class{number % 4}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=92)
    output = work / "shards"
    _output(["-m", "pipelines.build_shards", "folder", "--source", str(source), "--output", str(output)])
    return output


def images(count: int) -> Iterator[Image.Image]:
    """Large shapes under finer and fainter ones, as in photographs; the same at every call."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        pixels = np.zeros((960, 1280, 3))
        for side in (3, 12, 48, 192, 768):
            noise = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
            pixels += np.asarray(Image.fromarray(noise).resize((1280, 960), Image.Resampling.BILINEAR)) / side**0.5
        pixels -= pixels.min()
        yield Image.fromarray((255 * pixels / pixels.max()).astype(np.uint8))


def _output(words: Sequence[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(  # noqa: S603  # our own programs
        [sys.executable, *words], cwd=_ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RunError(f"{' '.join(words[:2])} exited with {done.returncode}: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout


if __name__ == "__main__":
    main()
