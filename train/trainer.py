"""One update of SimCLR on this rank, and the state that it changes."""

import hashlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.collectives import all_gather, all_reduce
from model.loss import contrastive_loss
from model.running_statistics import RunningStatistics
from pipelines.augment import TwoViews
from pipelines.loader import Batch, claim
from pipelines.plan import Plan
from train.config import PretrainConfig
from train.lars import LARS
from train.log_line import Outcome
from train.micro_batch import backward_in_micro_batches
from train.non_finite import NonFiniteWatch
from train.optimizer import set_learning_rate, step_unless
from train.overflow import overflowed
from train.probe import Probe
from train.schedule import learning_rate
from train.stages import StageClock

if TYPE_CHECKING:
    from accelerate import Accelerator

# What autocast makes of the views anyway, in a pass of its own.
_INPUT_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        self.clock = StageClock(self.accelerator.device, nvtx=self.config.nvtx)
        layout = torch.channels_last if self.config.uses_channels_last else torch.contiguous_format
        self.views = TwoViews(self.config.views, _INPUT_TYPES[self.config.precision], layout)
        self.statistics = RunningStatistics(self.model)
        self.watch = NonFiniteWatch(self.accelerator.device, self.config.metrics.log_every_steps)
        self.skipped_steps = torch.zeros((), device=self.accelerator.device)
        if isinstance(self.model, DistributedDataParallel):
            # The stem's gradient is the last of a backward; what follows is waiting for the other ranks' gradients.
            stem = next(parameter for parameter in self.model.parameters() if parameter.requires_grad)
            stem.register_post_accumulate_grad_hook(self._gradients_are_there)

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
        self.clock.enter("augment")
        set_learning_rate(self.optimizer, self.learning_rate(batch.step))
        if self.draws_in_forward:
            seed_forward(self.config.seed, batch.step, self.accelerator.process_index)
        claim(batch.plan.packed)  # all that the plan has on the device lies in it
        views = self.views(claim(batch.canvas), batch.plan)  # (2B, 3, s, s)
        skips_broken = self.config.non_finite.policy == "skip"
        statistics_before = self.statistics.copy() if self.accelerator.scaler or skips_broken else None
        loss, z, h = self.backward(views)
        self.clock.enter("optimizer")
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
        self.clock.enter("evaluation")
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
        self.clock.enter("forward")
        if config.micro_batch:
            return backward_in_micro_batches(
                self.accelerator,
                self.model,
                views,
                config.micro_batch,
                self._loss,
                config.loss.scale,
                self._during_backward,
            )
        z, h = self.model(views)  # (2B, D), (2B, F) float32; prepare() runs forward under autocast
        loss = self._loss(z)
        with self._during_backward():
            self.accelerator.backward(loss * config.loss.scale)
        return loss.detach(), z.detach(), h

    def _loss(self, z: Tensor) -> Tensor:
        self.clock.enter("loss")
        loss = contrastive_loss(self.config.loss, z, self._gather)
        self.clock.enter("backward")
        return loss

    def _gather(self, rows: Tensor) -> Tensor:
        self.clock.enter("gather")
        keys = all_gather(rows)
        self.clock.enter("loss")
        return keys

    def _gradients_are_there(self, _stem: Tensor) -> None:
        if self.model.require_backward_grad_sync:  # DDP's; not in a micro-batch before the last
            self.clock.enter("all_reduce", shown=False)

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
