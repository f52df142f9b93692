"""The training loop: updates, one after another, and when to log and to save."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipelines.canvases import LoaderWork
from pipelines.loader import Batch
from train.checkpoint_files import is_epoch_end
from train.log_line import LogLine, log_line
from train.non_finite import refuse_or_go_on, refuse_to_save
from train.stages import STAGES
from train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What one step of one rank adds to its metrics; nothing here waits for the device."""

    step: int
    """Updates made, this one included."""
    images: int
    """Source images of this rank."""
    step_seconds: float
    """From the last step's end to this one's, on the host."""
    stage_seconds: dict[str, float]
    """Of each stage that has ended since the last record, by the names of train/stages.py."""
    skip_reasons: tuple[str, ...]
    """One for each damaged sample that was replaced."""
    work: LoaderWork
    """What the batch took to make, in the loader's thread."""
    log: LogLine | None
    """At logging steps."""


def train(
    trainer: Trainer,
    batches: Iterable[Batch],
    *,
    last_step: int,
    record: Callable[[StepRecord], None],
    save: Callable[[int], None],
) -> None:
    """Learn from every batch.

    Args:
        trainer: of this rank.
        batches: this rank's, in order of step.
        last_step: the update that is the last; it is always logged and saved.
        record: called after each step.
        save: called with the number of updates made, when a checkpoint is due.

    Raises:
        NonFiniteError: learning has broken down; nothing was saved since.
        RollBack: it has, and is to go on from the last checkpoint.
    """
    config = trainer.config
    clock = trainer.clock
    clock.leave()  # what was before this is no step's
    clock.take()
    clock.enter("data")
    last_log = step_start = time.perf_counter()
    steps_since_log = 0
    stages_since_log: defaultdict[str, float] = defaultdict(float)
    for batch in batches:
        done = batch.step + 1
        learns = batch.step not in trainer.left_out
        saving = (
            done % config.checkpoint.every_steps == 0
            or done == last_step
            or is_epoch_end(done, config.checkpoint, trainer.steps_per_epoch)
        )
        looking_back = done % config.metrics.log_every_steps == 0 or done == last_step
        logging = looking_back and learns
        outcome = trainer.train_step(batch, examine=logging) if learns else None
        stage_seconds = clock.take()
        steps_since_log += 1
        for stage, stage_part in stage_seconds.items():
            stages_since_log[stage] += stage_part
        log = None
        if saving:
            refuse_to_save(trainer, done)
        elif looking_back:
            refuse_or_go_on(trainer, done)
        if logging and outcome is not None:
            seconds = time.perf_counter() - last_log
            rate = steps_since_log * config.global_batch / seconds
            of_a_step = {
                stage: stages_since_log[stage] / steps_since_log for stage in STAGES if stage in stages_since_log
            }
            log = log_line(trainer, batch, outcome, of_a_step, rate)
            trainer.last_probe_top1 = log.probe_top1
            last_log, steps_since_log = time.perf_counter(), 0
            stages_since_log.clear()
        now = time.perf_counter()
        record(
            StepRecord(
                step=done,
                images=len(batch.sample_id),
                step_seconds=now - step_start,
                stage_seconds=stage_seconds,
                skip_reasons=tuple(skip.reason for skip in batch.skipped),
                work=batch.work,
                log=log,
            )
        )
        if saving:
            clock.enter("checkpoint")
            save(done)
        clock.enter("data")
        step_start = time.perf_counter()
