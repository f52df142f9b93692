"""Notices the first step that is not finite, without waiting for the device at each one; and what is done about it."""

import json
import logging
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.loader import Batch
from train.config import NonFiniteConfig
from train.errors import RunError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from train.trainer import Trainer

logger = logging.getLogger(__name__)

_NEVER = 2**62
FORMAT = "diptych-batch"
_WATCHED = ("projections", "loss", "gradients", "weights")
"""In the order in which a step makes them."""


class NonFiniteError(RunError):
    """Learning has broken down. All ranks raise it together, with the same message."""


class RollBack(Exception):  # noqa: N818  # no error: what the run is asked to do
    """All ranks go back to the last checkpoint, and leave out a batch from now on."""

    def __init__(self, broken: "Broken") -> None:
        super().__init__(broken.told)
        self.step = broken.step


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The first step that was not finite since the last look."""

    step: int
    """From 0."""
    what: str
    """Of the step: projections, loss, gradients or weights."""
    ranks: tuple[int, ...]
    """Where it began."""
    directory: Path
    """Where the sample ids of its batch are now."""

    @property
    def told(self) -> str:
        """In a line."""
        return (
            f"{self.what} of step {self.step + 1} not finite on rank {', '.join(map(str, self.ranks))}; its sample ids "
            f"are in {self.directory}"
        )


class NonFiniteWatch:
    """Remembers, on the device, the first step that was not finite; `look_back` asks where the host waits anyway."""

    def __init__(self, device: torch.device, steps_between: int) -> None:
        """Watch from now on.

        Args:
            device: of losses and projections.
            steps_between: most steps between two calls of `look_back`.
        """
        self._first = torch.full((len(_WATCHED),), _NEVER, dtype=torch.int64, device=device)
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._recent: deque[tuple[int, Tensor]] = deque(maxlen=steps_between)
        self.skipped_updates = 0
        """That non_finite.policy = skip left out in the whole run, up to the last look back."""

    def look(
        self, batch: Batch, loss: Tensor, z: Tensor, broken: Tensor | None = None, *, skipped: bool = False
    ) -> None:
        """Note what a step came to; its samples are kept until the next logging step.

        Args:
            batch: of the step.
            loss: scalar.
            z: projections.
            broken: 0-d, above 0 if loss or gradient of some rank are not finite, where that is known.
            skipped: the update was then left out.
        """
        nothing = loss.new_zeros((), dtype=z.dtype)
        gradients = nothing if broken is None else torch.where(broken > 0, math.nan, 0.0).to(z.dtype)
        self._note(batch.step, torch.stack([z.sum(), loss.to(z.dtype), gradients, nothing]))
        if broken is not None and skipped:
            self._skipped += broken > 0
        self._recent.append((batch.step, batch.sample_id))

    @torch.no_grad()
    def look_at_weights(self, step: int, weights: Iterable[Tensor]) -> None:
        """Note what an update left, before it is saved: a finite loss may have had a gradient that was not."""
        largest = torch.nn.utils.get_total_norm([weight.detach() for weight in weights], norm_type=math.inf)
        nothing = torch.zeros_like(largest)
        self._note(step, torch.stack([nothing, nothing, nothing, largest]))

    def _note(self, step: int, values: Tensor) -> None:
        self._first = torch.where(values.isfinite(), self._first, self._first.clamp(max=step))

    def look_back(self, accelerator: "Accelerator", run_dir: Path) -> Broken | None:
        """Wait for the device; the same answer on all ranks, and None if all was finite on each.

        The sample ids of the broken step's batch are then in run_dir/non_finite/step-N/rank-R.json, for
        `python -m train.replay`. The next look back tells of what comes after this one.
        """
        by_rank: list[list[int]] = accelerator.gather(torch.cat([self._first, self._skipped[None]])[None]).tolist()
        self.skipped_updates += by_rank[0].pop()  # an update is left out on all ranks or on none
        by_rank = [first[: len(_WATCHED)] for first in by_rank]
        self._skipped = torch.zeros_like(self._skipped)
        step = min(min(first) for first in by_rank)
        if step == _NEVER:
            return None
        self._first = torch.full_like(self._first, _NEVER)
        # One rank's projections are in every rank's loss, and its gradients in every rank's weights: it began where the
        # earliest of these is not finite.
        what, ranks = next(
            (name, ranks)
            for place, name in enumerate(_WATCHED)
            if (ranks := [rank for rank, first in enumerate(by_rank) if first[place] == step])
        )
        directory = run_dir / "non_finite" / f"step-{step + 1:08d}"
        try:
            self._write(directory, step, accelerator)
        except OSError as error:  # a full disk, say, must not keep one rank from what all are about to do
            logger.warning("%s cannot be written (%s)", directory, error.strerror)
        accelerator.wait_for_everyone()
        return Broken(step=step, what=what, ranks=tuple(ranks), directory=directory)

    def _write(self, directory: Path, step: int, accelerator: "Accelerator") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        content = {
            "format": FORMAT,
            "step": step,
            "rank": accelerator.process_index,
            "world_size": accelerator.num_processes,
            "sample_id": dict(self._recent)[step].tolist(),
        }
        path = directory / f"rank-{accelerator.process_index}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content) + "\n")
        partial.replace(path)


def answer(broken: Broken, config: NonFiniteConfig, times: int, advice: str) -> None:
    """Do what the configuration says about a broken step; returns where the run just goes on.

    Args:
        broken: the step.
        config: what to do.
        times: batches that were left out before, or updates that were, this one included.
        advice: what a person can do about it.

    Raises:
        NonFiniteError: the run ends.
        RollBack: it goes back.
    """
    in_weights = broken.what == "weights"
    if config.policy == "skip" and times <= config.limit and not in_weights:
        logger.warning("%s; this update was left out (%d of %d)", broken.told, times, config.limit)
        return
    if config.policy == "rollback" and times < config.limit:
        raise RollBack(broken)
    too_often = f"more than non_finite.limit = {config.limit} such batches; " if config.policy != "stop" else ""
    raise NonFiniteError(
        f"{broken.told}; {too_often}`python -m train.replay {broken.directory}` shows where it began; {advice}"
    )


def refuse_to_save(trainer: "Trainer", done: int) -> None:
    """Let nothing be saved whose steps or weights are not finite; called by all ranks before every checkpoint.

    Args:
        trainer: of this rank.
        done: updates made.

    Raises:
        NonFiniteError, RollBack: as the configuration says.
    """
    trainer.watch.look_at_weights(done - 1, trainer.model.parameters())
    refuse_or_go_on(trainer, done)


def refuse_or_go_on(trainer: "Trainer", done: int) -> None:
    """Ask what was not finite since the last time, and do what the configuration says about it."""
    broken = trainer.watch.look_back(trainer.accelerator, Path(trainer.config.run_dir))
    if broken is not None:
        config = trainer.config.non_finite
        times = trainer.watch.skipped_updates if config.policy == "skip" else len(trainer.left_out)
        answer(broken, config, times, _advice(trainer, done - 1))


def _advice(trainer: "Trainer", step: int) -> str:
    other_precision = "" if trainer.config.precision == "fp32" else " or use precision = fp32"
    return (
        f"lower optimizer.base_lr (the rate is {trainer.learning_rate(step):.3g}), lengthen "
        f"schedule.warmup_epochs{other_precision}, in another --run_dir"
    )
