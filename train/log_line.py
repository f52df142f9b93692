"""What is told of the run at a logging step, over all ranks; the one place where the host waits for the device."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.health import health
from pipelines.loader import Batch

if TYPE_CHECKING:
    from train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one update came to on this rank; all of it stays on the device, without graph."""

    loss: Tensor
    """Scalar, this rank's part of the mean, in nats, unscaled."""
    z: Tensor
    """(2B, D) projections."""
    h: Tensor
    """(2B, F) representations."""
    gradient_norm: Tensor | None
    """Scalar, over all parameters, after the reduction over ranks; where it was asked for."""


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """What is known about the run at a logging step, over all ranks; a line of metrics.jsonl."""

    step: int
    """Updates made, this one included."""
    epoch: float
    """Passes over the data so far."""
    loss: float
    """Of the global batch of this step, in nats, unscaled."""
    learning_rate: float
    """Of this step."""
    images_per_second: float
    """Source images over all ranks since the last line."""
    gradient_norm: float
    """Of this step's update over all parameters, loss.scale included."""
    largest_trust_ratio: float | None
    """LARS's, over adapted weights; None with other optimizers."""
    skipped_steps: int
    """Updates that fp16's overflow prevented, since the process began."""
    left_out_batches: int
    """Of the whole run, by non_finite.policy = skip or rollback."""
    probe_top1: float | None
    """Share of labelled views since the last line that the online probe named before it learnt from them."""
    health: dict[str, float]
    """Of this step's global batch, by the names of model/health.py."""
    stage_seconds: dict[str, float]
    """Of a step on this rank, by the names of train/stages.py: the mean since the last line."""


def log_line(
    trainer: "Trainer", batch: Batch, outcome: Outcome, stage_seconds: dict[str, float], images_per_second: float
) -> LogLine:
    """Gather the numbers of a logging step from all ranks; waits for the device once.

    Args:
        trainer: of this rank.
        batch: what was learnt from.
        outcome: of the step, with the gradient's norm.
        stage_seconds: of a step, since the last line.
        images_per_second: since the last line.
    """
    numbers = {"loss": trainer.accelerator.reduce(outcome.loss, reduction="mean"), **health(outcome.z, outcome.h)}
    names_of_health = list(numbers)[1:]
    numbers["skipped_steps"] = trainer.skipped_steps
    if outcome.gradient_norm is not None:
        numbers["gradient_norm"] = outcome.gradient_norm
    trust = trainer.largest_trust()
    if trust is not None:
        numbers["largest_trust_ratio"] = trust
    if trainer.probe is not None:
        numbers["probe_top1"] = trainer.probe.accuracy()
    values = torch.stack([number.double() for number in numbers.values()]).tolist()
    told = dict(zip(numbers, values, strict=True))
    done = batch.step + 1
    return LogLine(
        step=done,
        epoch=done / trainer.steps_per_epoch,
        loss=told["loss"],
        learning_rate=trainer.learning_rate(batch.step),
        images_per_second=images_per_second,
        gradient_norm=told["gradient_norm"],
        largest_trust_ratio=told.get("largest_trust_ratio"),
        skipped_steps=int(told["skipped_steps"]),
        left_out_batches=trainer.watch.skipped_updates + len(trainer.left_out),
        probe_top1=_known(told.get("probe_top1")),
        health={name: told[name] for name in names_of_health},
        stage_seconds=stage_seconds,
    )


def _known(value: float | None) -> float | None:
    """None instead of a share of nothing."""
    return None if value is None or math.isnan(value) else value
