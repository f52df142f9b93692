"""The training loop: one update, many times."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from model.loss import nt_xent
from pipelines.augment import TwoViews
from pipelines.canvases import LoaderWork
from pipelines.loader import Batch, claim
from pipelines.plan import Plan
from train.config import PretrainConfig
from train.errors import RunError
from train.optimizer import set_learning_rate
from train.schedule import learning_rate
from train.stages import StageClock

if TYPE_CHECKING:
    from accelerate import Accelerator

# What autocast makes of the views anyway, in a pass of its own.
_INPUT_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """What is known about the run at a logging step, over all ranks; a line of metrics.jsonl."""

    step: int
    """Updates made, this one included."""
    epoch: float
    """Passes over the data so far."""
    loss: float
    """NT-Xent of the global batch of this step, in nats, unscaled."""
    learning_rate: float
    """Of this step."""
    images_per_second: float
    """Source images over all ranks since the last line."""
    stage_seconds: dict[str, float]
    """Of this step on this rank."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What one step of one rank adds to its metrics; nothing here waits for the device."""

    step: int
    """Updates made, this one included."""
    images: int
    """Source images of this rank."""
    step_seconds: float
    """From the last step's end to this one's, on the host."""
    data_wait_seconds: float
    """Of these, without a batch to work on."""
    skip_reasons: tuple[str, ...]
    """One for each damaged sample that was replaced."""
    work: LoaderWork
    """What the batch took to make, in the loader's thread."""
    log: LogLine | None
    """At logging steps."""


@dataclass(kw_only=True)
class Trainer:
    """The state of learning on one rank. `model` and `optimizer` are Accelerate's, ready to be called."""

    config: PretrainConfig
    accelerator: "Accelerator"
    model: nn.Module
    optimizer: Any
    steps_per_epoch: int
    clock: StageClock = field(init=False)
    views: Callable[[Tensor, Plan], Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.clock = StageClock(self.accelerator.device)
        layout = torch.channels_last if self.config.uses_channels_last else torch.contiguous_format
        self.views = TwoViews(self.config.views, _INPUT_TYPES[self.config.precision], layout)

    @property
    def total_steps(self) -> int:
        """Updates of the whole schedule."""
        return int(self.config.schedule.epochs) * self.steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """Of the update from batch `step`, from 0."""
        peak = self.config.optimizer.peak_lr(self.config.global_batch)
        warmup = round(self.config.schedule.warmup_epochs * self.steps_per_epoch)
        return learning_rate(step, peak=peak, warmup_steps=warmup, total_steps=self.total_steps)

    def train_step(self, batch: Batch) -> Tensor:
        """One update from this rank's part of the global batch.

        Returns:
            This rank's loss, a scalar that stays on the device: `.item()` here would stall every step.
        """
        set_learning_rate(self.optimizer, self.learning_rate(batch.step))
        views = self.views(claim(batch.canvas), batch.plan)  # (2B, 3, s, s)
        self.clock.mark("augment")
        z = self.model(views)  # (2B, D) float32; prepare() runs forward under autocast
        self.clock.mark("forward")
        loss = nt_xent(z, self.config.loss.temperature)
        self.clock.mark("loss")
        self.accelerator.backward(loss * self.config.loss.scale)
        self.clock.mark("backward")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.clock.mark("optimizer")
        return loss.detach()

    def log_line(self, batch: Batch, loss: Tensor, data_seconds: float, images_per_second: float) -> LogLine:
        """Gather the numbers of a logging step from all ranks; waits for the device.

        Raises:
            RunError: the loss is not finite.
        """
        value = float(self.accelerator.reduce(loss, reduction="mean"))
        done = batch.step + 1
        if not math.isfinite(value):
            raise RunError(
                f"loss is {value} at step {done} (lr {self.learning_rate(batch.step):.3g}); lower optimizer.base_lr, "
                "lengthen schedule.warmup_epochs or use precision = fp32, then run again: it resumes before this step"
            )
        return LogLine(
            step=done,
            epoch=done / self.steps_per_epoch,
            loss=value,
            learning_rate=self.learning_rate(batch.step),
            images_per_second=images_per_second,
            stage_seconds={"data": data_seconds, **self.clock.seconds()},
        )


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
    """
    config = trainer.config
    last_log = step_start = time.perf_counter()
    steps_since_log = 0
    for batch in batches:
        data_seconds = time.perf_counter() - step_start
        done = batch.step + 1
        logging = done % config.metrics.log_every_steps == 0 or done == last_step
        trainer.clock.start(sampled=logging)
        loss = trainer.train_step(batch)
        steps_since_log += 1
        log = None
        if logging:
            seconds = time.perf_counter() - last_log
            rate = steps_since_log * config.global_batch / seconds
            log = trainer.log_line(batch, loss, data_seconds, rate)
            last_log, steps_since_log = time.perf_counter(), 0
        now = time.perf_counter()
        record(
            StepRecord(
                step=done,
                images=len(batch.sample_id),
                step_seconds=now - step_start,
                data_wait_seconds=data_seconds,
                skip_reasons=tuple(skip.reason for skip in batch.skipped),
                work=batch.work,
                log=log,
            )
        )
        if done % config.checkpoint.every_steps == 0 or done == last_step:
            save(done)
        step_start = time.perf_counter()
