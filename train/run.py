"""A run on this rank from one step to another: loader, loop, checkpoints and requests to stop, put together."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from model.compiled import graph_breaks
from pipelines.loader import Share, training_batches
from pipelines.prefetch import Occupancy, Prefetch
from train.boundary import Boundary
from train.distributed import ranks_on_node
from train.log import RunLog
from train.loop import StepRecord, train
from train.non_finite import NonFiniteError, RollBack, refuse_to_save
from train.resume import find_checkpoint, restore
from train.run_saver import RunSaver
from train.step_profile import profiled
from train.stop_request import StopRequest
from train.trackers import track
from train.trainer import Trainer
from train.watchdog import Watchdog


@dataclass(frozen=True, kw_only=True)
class Run:
    """The parts of a run on this rank, once it has begun."""

    trainer: Trainer
    saver: RunSaver
    stop: StopRequest
    watchdog: Watchdog
    record: Callable[[StepRecord, Occupancy], None]
    """Takes what each step adds to the metrics, and how the loader stood."""
    log: RunLog | None
    """Of rank 0."""


def learn(run: Run, first_step: int, last_step: int) -> bool:
    """Go from one step to another, and back where non_finite.policy = rollback says so.

    Returns:
        Whether the run was asked to stop between them; what it had learnt is saved.

    Raises:
        NonFiniteError: learning has broken down.
        DataError, RunError: this rank or another cannot go on; what it had learnt is saved, if it could be.
    """
    run.stop.begin_training()
    try:
        if run.trainer.config.non_finite.policy == "rollback" and run.saver.saved_step != first_step:
            run.saver.begin(first_step)  # there must be something to go back to
        while True:
            try:
                return _learn(run, first_step, last_step)
            except RollBack as asked:
                first_step = _go_back(run, asked)
    finally:
        run.saver.writer.finish()  # also where another rank has died
        if run.log is not None:
            run.log.close()


def _learn(run: Run, first_step: int, last_step: int) -> bool:
    trainer, saver = run.trainer, run.saver
    config, ranks = trainer.config, saver.ranks
    share = Share(
        global_batch=config.global_batch,
        seed=config.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        ranks_on_node=ranks_on_node(),
        first_step=first_step,
        last_step=last_step,
    )
    device, damaged = trainer.accelerator.device, Path(config.run_dir) / "damaged_samples"
    stop_loader = threading.Event()
    batches = training_batches(saver.split, config.data, config.views, share, device, damaged, stop_loader)

    def record(step: StepRecord) -> None:
        if config.compile and step.step == first_step + 1 and ranks.rank == 0:
            print(f"encoder compiled, with {graph_breaks()} graph breaks", flush=True)
        run.record(step, ahead.occupancy())
        if step.log is not None:
            track(trainer.accelerator, step.log)
        if run.log is not None:
            run.log.record(step)

    boundary = Boundary(ranks=ranks, stop=run.stop, watchdog=run.watchdog, saver=saver, step=first_step)
    with Prefetch(batches, config.data.prefetch_batches, stop_loader) as ahead:
        handed_out = profiled(boundary.batches(ahead), trainer, Path(config.run_dir) / "profile")
        train(trainer, handed_out, last_step=last_step, record=record, save=saver.begin)
    run.watchdog.allow_startup_time()
    if saver.saved_step != boundary.step > 0:
        refuse_to_save(trainer, boundary.step)
    saved = saver.finish(boundary.step, run.stop, stopping=boundary.stopping)
    if boundary.failure is not None:
        raise boundary.failure
    if boundary.stopping and ranks.rank == 0:
        what = "saved" if saved else f"NOT saved ({saver.writer.last_error})"
        asked = run.stop.asked_by or "another rank's request"
        print(f"stopping after step {boundary.step}, {what}, by {asked}; the same command goes on", flush=True)
    return boundary.stopping


def _go_back(run: Run, asked: RollBack) -> int:
    """Put the trainer into the state of the newest checkpoint, less a batch; returns its step."""
    run.watchdog.allow_startup_time()
    run.saver.writer.finish()
    trainer = run.trainer
    checkpoint = find_checkpoint(replace(trainer.config, resume="auto"), run.saver.split, run.saver.ranks)
    if checkpoint is None:
        raise NonFiniteError(f"{asked}; there is no checkpoint to go back to") from None
    restore(checkpoint, trainer, run.saver.model)
    trainer.left_out |= {asked.step}
    if run.log is not None:
        run.log.rewind(checkpoint.step)
        print(f"{asked}; going back to step {checkpoint.step} and leaving out that batch", flush=True)
    return checkpoint.step
