"""Look closely at a few steps: a Chrome trace, and a table of the operators that cost most."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from pipelines.loader import Batch
from train.trainer import Trainer

_ROWS = 40


def profiled(batches: Iterator[Batch], trainer: Trainer, directory: Path) -> Iterator[Batch]:
    """Hand batches through, with the profiler on for the steps that `profile` names.

    Writes steps-A-B.rank-R.trace.json.gz, for chrome://tracing or Perfetto, and .operators.txt into `directory`; if the
    run ends before step B, of the steps there were.

    Args:
        batches: of this rank.
        trainer: whose steps they are for.
        directory: made if need be.
    """
    wanted = trainer.config.profiled_steps()
    if wanted is None:
        yield from batches
        return
    first, last = wanted
    profiler: profile | None = None
    done = first
    try:
        for batch in batches:
            if first <= batch.step < last and profiler is None:
                profiler = _start(trainer)
            yield batch
            done = batch.step + 1
            if profiler is not None and done == last:
                break
        if profiler is None and trainer.accelerator.is_main_process:
            print(f"nothing to profile: no step between {first} and {last} was made", flush=True)
    finally:
        if profiler is not None:
            _finish(profiler, trainer, directory / f"steps-{first}-{done}.rank-{trainer.accelerator.process_index}")
    yield from batches


def _start(trainer: Trainer) -> profile:
    activities = [ProfilerActivity.CPU]
    if trainer.accelerator.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    profiler = profile(activities=activities, record_shapes=True, profile_memory=True)
    profiler.start()
    trainer.clock.profiling = True
    return profiler


def _finish(profiler: profile, trainer: Trainer, stem: Path) -> None:
    """A profiler that waits here for the device, at the end of its steps, does not disturb what it measures."""
    trainer.clock.profiling = False
    trainer.clock.leave()
    if trainer.accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    profiler.stop()
    stem.parent.mkdir(parents=True, exist_ok=True)
    trace = stem.with_name(stem.name + ".trace.json.gz")
    profiler.export_chrome_trace(str(trace))
    by = "self_cuda_time_total" if trainer.accelerator.device.type == "cuda" else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=by, row_limit=_ROWS)
    stem.with_name(stem.name + ".operators.txt").write_text(table)
    trainer.clock.enter("data")
    if trainer.accelerator.is_main_process:
        print(f"profile written: {trace} (chrome://tracing, ui.perfetto.dev), and the table of operators beside it")
