"""The training loop: one update, many times."""

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from model.collectives import all_reduce
from model.loss import contrastive_loss
from model.running_statistics import RunningStatistics
from pipelines.augment import TwoViews
from pipelines.canvases import LoaderWork
from pipelines.loader import Batch, claim
from pipelines.plan import Plan
from train.checkpoint_files import is_epoch_end
from train.config import PretrainConfig
from train.lars import LARS
from train.log_line import LogLine, Outcome, log_line
from train.micro_batch import backward_in_micro_batches
from train.non_finite import NonFiniteWatch, refuse_or_go_on, refuse_to_save
from train.optimizer import set_learning_rate, step_unless
from train.overflow import overflowed
from train.probe import Probe
from train.schedule import learning_rate
from train.stages import StageClock

if TYPE_CHECKING:
    from accelerate import Accelerator

# What autocast makes of the views anyway, in a pass of its own.
_INPUT_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    probe: Probe | None = None
    """Where the data has labels."""
    draws_in_forward: bool = False
    """The encoder has dropout or stochastic depth."""
    left_out: frozenset[int] = frozenset()
    """Steps, from 0, whose batches teach nothing, because they broke the run before it went back."""
    last_probe_top1: float | None = None
    """Of the last log line."""
    clock: StageClock = field(init=False)
    views: Callable[[Tensor, Plan], Tensor] = field(init=False)
    statistics: RunningStatistics = field(init=False)
    watch: NonFiniteWatch = field(init=False)
    skipped_steps: Tensor = field(init=False)
    """Updates that fp16's overflow prevented, since the process began."""

    def __post_init__(self) -> None:
        self.clock = StageClock(self.accelerator.device)
        layout = torch.channels_last if self.config.uses_channels_last else torch.contiguous_format
        self.views = TwoViews(self.config.views, _INPUT_TYPES[self.config.precision], layout)
        self.statistics = RunningStatistics(self.model)
        self.watch = NonFiniteWatch(self.accelerator.device, self.config.metrics.log_every_steps)
        self.skipped_steps = torch.zeros((), device=self.accelerator.device)

    @property
    def total_steps(self) -> int:
        """Updates of the whole schedule."""
        return int(self.config.schedule.epochs) * self.steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """Of the update from batch `step`, from 0."""
        peak = self.config.optimizer.peak_lr(self.config.global_batch)
        warmup = round(self.config.schedule.warmup_epochs * self.steps_per_epoch)
        return learning_rate(step, peak=peak, warmup_steps=warmup, total_steps=self.total_steps)

    def train_step(self, batch: Batch, *, examine: bool = False) -> Outcome:
        """One update from this rank's part of the global batch.

        Args:
            batch: of this rank.
            examine: compute also what only a log line wants to know.

        Returns:
            Numbers that stay on the device: `.item()` here would stall every step.
        """
        set_learning_rate(self.optimizer, self.learning_rate(batch.step))
        if self.draws_in_forward:
            seed_forward(self.config.seed, batch.step, self.accelerator.process_index)
        claim(batch.plan.packed)  # all that the plan has on the device lies in it
        views = self.views(claim(batch.canvas), batch.plan)  # (2B, 3, s, s)
        self.clock.mark("augment")
        skips_broken = self.config.non_finite.policy == "skip"
        statistics_before = self.statistics.copy() if self.accelerator.scaler or skips_broken else None
        loss, z, h = self.backward(views)
        broken = self._broken(loss) if self.config.non_finite.policy != "stop" else None
        skip = broken if skips_broken else None
        if self.accelerator.scaler:
            overflow = overflowed(self.accelerator.scaler, self.optimizer.optimizer)
            self.skipped_steps += overflow
            skip = overflow if skip is None else torch.maximum(overflow, skip)
        if statistics_before is not None and skip is not None:
            self.statistics.restore_if(skip, statistics_before)
        gradient_norm = self._gradient_norm() if examine else None
        step_unless(self.optimizer, skip, self.accelerator.scaler)
        self.optimizer.zero_grad(set_to_none=True)
        self.clock.mark("optimizer")
        if self.probe is not None:
            self.probe.update(h, batch.label.to(h.device, non_blocking=True), skip if skips_broken else None)
        self.watch.look(batch, loss, z, broken, skipped=skips_broken)
        return Outcome(loss=loss, z=z, h=h, gradient_norm=gradient_norm)

    def backward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the loss over the global batch.

        Returns:
            This rank's loss, z (2B, D) and h (2B, F), without graph.
        """
        config = self.config
        if config.micro_batch:
            learnt = backward_in_micro_batches(
                self.accelerator,
                self.model,
                views,
                config.micro_batch,
                partial(contrastive_loss, config.loss),
                config.loss.scale,
                self._during_backward,
            )
            self.clock.mark("backward")  # both forwards and the loss among it
            return learnt
        z, h = self.model(views)  # (2B, D), (2B, F) float32; prepare() runs forward under autocast
        self.clock.mark("forward")
        loss = contrastive_loss(config.loss, z)
        self.clock.mark("loss")
        with self._during_backward():
            self.accelerator.backward(loss * config.loss.scale)
        self.clock.mark("backward")
        return loss.detach(), z.detach(), h

    def largest_trust(self) -> Tensor | None:
        """LARS's largest trust ratio of the last update, a scalar on the device."""
        inner = self.optimizer.optimizer
        return inner.largest_trust() if isinstance(inner, LARS) else None

    def _gradient_norm(self, kind: float = 2.0) -> Tensor:
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients, norm_type=kind)

    def _broken(self, loss: Tensor) -> Tensor:
        """0-d, above 0 if the loss of some rank is not finite, or the gradient, which is the same on all.

        Under fp16 a gradient that is not finite is no fault but an overflow, which the scaler answers.
        """
        finite = loss.isfinite()
        if not self.accelerator.scaler:
            finite &= self._gradient_norm(math.inf).isfinite()
        return all_reduce((~finite).float())

    def _during_backward(self) -> AbstractContextManager[None]:
        """Activations that are computed again must not enter the running statistics again."""
        return self.statistics.kept() if self.config.checkpoint_activations else nullcontext()


def seed_forward(seed: int, step: int, rank: int) -> None:
    """Make what dropout and stochastic depth draw a function of seed, step and rank, so that a run can be resumed."""
    digest = hashlib.blake2b(f"forward {seed} {step} {rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest))


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
    last_log = step_start = time.perf_counter()
    steps_since_log = 0
    for batch in batches:
        data_seconds = time.perf_counter() - step_start
        done = batch.step + 1
        learns = batch.step not in trainer.left_out
        saving = (
            done % config.checkpoint.every_steps == 0
            or done == last_step
            or is_epoch_end(done, config.checkpoint, trainer.steps_per_epoch)
        )
        looking_back = done % config.metrics.log_every_steps == 0 or done == last_step
        logging = looking_back and learns
        trainer.clock.start(sampled=logging)
        outcome = trainer.train_step(batch, examine=logging) if learns else None
        steps_since_log += 1
        log = None
        if saving:
            refuse_to_save(trainer, done)
        elif looking_back:
            refuse_or_go_on(trainer, done)
        if logging and outcome is not None:
            seconds = time.perf_counter() - last_log
            rate = steps_since_log * config.global_batch / seconds
            log = log_line(trainer, batch, outcome, data_seconds, rate)
            trainer.last_probe_top1 = log.probe_top1
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
        if saving:
            save(done)
        step_start = time.perf_counter()
