"""Notices the first loss or projection that is not finite, without waiting for the device at each step."""

import json
import math
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.loader import Batch
from train.errors import RunError

if TYPE_CHECKING:
    from accelerate import Accelerator

_NEVER = 2**62
FORMAT = "diptych-batch"
_WATCHED = ("projections", "loss", "weights")
"""In the order in which a step makes them."""


class NonFiniteError(RunError):
    """Learning has broken down. All ranks raise it together, with the same message."""


class NonFiniteWatch:
    """Remembers, on the device, the first step that was not finite; `refuse` asks where the host waits anyway."""

    def __init__(self, device: torch.device, steps_between: int) -> None:
        """Watch from now on.

        Args:
            device: of losses and projections.
            steps_between: most steps between two calls of `refuse`.
        """
        self._first = torch.full((len(_WATCHED),), _NEVER, dtype=torch.int64, device=device)
        self._recent: deque[tuple[int, Tensor]] = deque(maxlen=steps_between)

    def look(self, batch: Batch, loss: Tensor, z: Tensor) -> None:
        """Note what a step came to; its samples are kept until the next logging step."""
        self._note(batch.step, torch.stack([z.sum(), loss.to(z.dtype), loss.new_zeros((), dtype=z.dtype)]))
        self._recent.append((batch.step, batch.sample_id))

    @torch.no_grad()
    def look_at_weights(self, step: int, weights: Iterable[Tensor]) -> None:
        """Note what an update left, before it is saved: a finite loss may have had a gradient that was not."""
        largest = torch.nn.utils.get_total_norm([weight.detach() for weight in weights], norm_type=math.inf)
        self._note(step, torch.stack([torch.zeros_like(largest), torch.zeros_like(largest), largest]))

    def _note(self, step: int, values: Tensor) -> None:
        self._first = torch.where(values.isfinite(), self._first, self._first.clamp(max=step))

    def refuse(self, accelerator: "Accelerator", run_dir: Path, advice: str) -> None:
        """Wait for the device and return if all was finite on every rank.

        Raises:
            NonFiniteError: names step and ranks. The sample ids of that step's batch are then in
                run_dir/non_finite/step-N/rank-R.json, for `python -m train.replay`.
        """
        by_rank: list[list[int]] = accelerator.gather(self._first[None]).tolist()
        step = min(min(first) for first in by_rank)
        if step == _NEVER:
            return
        # One rank's projections are in every rank's loss, and its gradients in every rank's weights: it began where the
        # earliest of these is not finite.
        what, ranks = next(
            (name, ranks)
            for place, name in enumerate(_WATCHED)
            if (ranks := [rank for rank, first in enumerate(by_rank) if first[place] == step])
        )
        directory = run_dir / "non_finite" / f"step-{step + 1:08d}"
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
        accelerator.wait_for_everyone()
        raise NonFiniteError(
            f"{what} of step {step + 1} not finite on rank {', '.join(map(str, ranks))}; its sample ids are in "
            f"{directory}; `python -m train.replay {directory}` shows where it began; {advice}"
        )
