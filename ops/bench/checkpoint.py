"""What a checkpoint costs training: steps with none, with one in the background, and with one that is waited for.

Blocks of the three kinds alternate in one process. The step is a fake: the copy, the thread, the files and the hashes
are those of a run.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import PositiveFloat, PositiveInt

from pipelines.errors import DataError
from pipelines.manifest import SplitIndex, open_split
from train.arguments import parse
from train.config import PretrainConfig
from train.distributed import fail
from train.errors import RunError

if TYPE_CHECKING:
    from train.run_saver import RunSaver

KINDS = ("none", "background", "waited for")


@dataclass(frozen=True, kw_only=True)
class CheckpointBenchConfig(PretrainConfig):
    """The run whose checkpoints are written, and how it is measured. Files go into a directory beside run_dir's."""

    step_seconds: PositiveFloat = 0.3
    """Of a step: about what a ResNet-50 takes for 512 images on a GPU of 2020 to 2023 in mixed precision."""
    busy: bool = False
    """Let the step compute on a core, as on the CPU, instead of leaving the host idle, as a GPU does."""
    repeats: PositiveInt = 5
    """Blocks of each kind."""
    steps: PositiveInt = 20
    """Per block; a checkpoint is made after the second. A write that outlasts the block is waited for, and counts."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Steps of one kind."""

    seconds: float
    """All of it."""
    longest_step_seconds: float
    """What comes between two steps included."""
    begin_seconds: float
    """That the step with the checkpoint waited for its copy, or for the whole of it."""
    write_seconds: float
    """Until it was complete, in the thread."""


def main(arguments: Sequence[str]) -> None:
    """Measure, and print medians."""
    try:
        config = parse(CheckpointBenchConfig, arguments, prog="bench checkpoint")
        report = measure(config, open_split(config.data.dir, "train"))
    except (RunError, DataError) as error:
        fail("bench checkpoint", error, show=True)
    if config.json:
        print(json.dumps(report))
        return
    print(
        f"{config.encoder.name}, {report['bytes'] / 1e6:,.0f} MB; steps of {report['step_seconds']:.3f} s, "
        f"{'computing on one core' if config.busy else 'host idle'}; written at "
        f"{report['bytes'] / 1e6 / report['background']['write_seconds']:,.0f} MB/s to {report['file_system']}"
    )
    for kind in KINDS[1:]:
        of_kind = report[kind]
        print(
            f"{kind:<11} {of_kind['lost_seconds']:>7.3f} s of training lost per checkpoint "
            f"({of_kind['lowest']:.3f} to {of_kind['highest']:.3f}), {of_kind['lost_steps']:.2f} steps; begun in "
            f"{of_kind['begin_seconds']:.3f} s, complete after {of_kind['write_seconds']:.2f} s, longest step "
            f"{of_kind['longest_step_seconds']:.3f} s"
        )


def measure(config: CheckpointBenchConfig, split: SplitIndex) -> dict[str, Any]:
    """Alternate blocks of the three kinds.

    Returns:
        Seconds lost against blocks without a checkpoint, by kind; bytes of a checkpoint; where it went.
    """
    import torch

    from train.build import build
    from train.checkpoint_writer import Written
    from train.distributed import make_accelerator
    from train.ranks import Ranks
    from train.run_saver import RunSaver

    parent = Path(config.run_dir).parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-checkpoint-", dir=parent) as directory:
        config = replace(config, run_dir=directory)
        trainer, model = build(config, split, make_accelerator(config))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        trainer.optimizer.step()  # momenta are there from now on
        written: list[Written] = []
        saver = RunSaver(split=split, trainer=trainer, model=model, ranks=Ranks(), change=0, told=written.append)
        step = _busy_step(config.step_seconds) if config.busy else lambda: time.sleep(config.step_seconds)
        blocks: dict[str, list[Block]] = {kind: [] for kind in KINDS}
        _block("background", step, 3, saver, written)  # the disk's first file, the thread's first copy
        for _ in range(config.repeats):
            for kind in KINDS:
                blocks[kind].append(_block(kind, step, config.steps, saver, written))
        file_system = _file_system(Path(directory))
    return summary(blocks, config.steps) | {"bytes": written[-1].bytes, "file_system": file_system}


def summary(blocks: dict[str, list[Block]], steps: int) -> dict[str, Any]:
    """Medians by kind; what is lost is what a block takes longer than the median of those without a checkpoint."""
    undisturbed = median(block.seconds for block in blocks["none"])
    step_seconds = undisturbed / steps
    report: dict[str, Any] = {"step_seconds": step_seconds}
    for kind in KINDS[1:]:
        lost = [block.seconds - undisturbed for block in blocks[kind]]
        report[kind] = {
            "lost_seconds": median(lost),
            "lowest": min(lost),
            "highest": max(lost),
            "lost_steps": median(lost) / step_seconds,
            "begin_seconds": median(block.begin_seconds for block in blocks[kind]),
            "write_seconds": median(block.write_seconds for block in blocks[kind]),
            "longest_step_seconds": median(block.longest_step_seconds for block in blocks[kind]),
        }
    return report


def _block(kind: str, step: Callable[[], None], steps: int, saver: "RunSaver", written: list[Any]) -> Block:
    begin_seconds, ends = 0.0, [time.perf_counter()]
    for number in range(steps):
        step()
        if number == 1 and kind != "none":
            start = time.perf_counter()
            saver.begin(saver.saved_step + 1)
            if kind == "waited for":
                saver.writer.finish()
            begin_seconds = time.perf_counter() - start
        ends.append(time.perf_counter())
    saver.writer.finish()
    seconds = time.perf_counter() - ends[0]
    if kind != "none" and written[-1].error is not None:
        raise RunError(f"the checkpoint could not be written: {written[-1].error}")
    return Block(
        seconds=seconds,
        longest_step_seconds=max(after - before for before, after in pairwise(ends)),
        begin_seconds=begin_seconds,
        write_seconds=written[-1].seconds if kind != "none" else 0.0,
    )


def _busy_step(seconds: float) -> Callable[[], None]:
    """As much work as takes so long when nothing is in its way."""
    import torch

    torch.set_num_threads(1)
    matrix = torch.randn(256, 256)

    def work(times: int) -> None:
        for _ in range(times):
            matrix.mm(matrix)

    work(100)
    start = time.perf_counter()
    work(400)
    times = max(1, round(seconds / (time.perf_counter() - start) * 400))
    return lambda: work(times)


def _file_system(directory: Path) -> str:
    """Type of the file system that a directory lies on, as the kernel mounts it."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [mount for mount in mounts if directory.resolve().is_relative_to(mount[0])]
    return max(above, key=lambda mount: len(mount[0]))[1] if above else os.uname().sysname
