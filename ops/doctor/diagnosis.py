"""Measurements -> which stage is the bottleneck, how fast the run will be, how long it will take."""

from collections.abc import Mapping
from dataclasses import dataclass

from ops.doctor.measurements import STAGES, TRAINER_STAGES, Alone, Phase

STARVED_SHARE = 0.05
"""Of a step's time spent waiting for its batch, from which on the loader is to blame."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """Of the run, as far as it is asked for."""

    global_batch: int
    steps_per_epoch: int
    steps: int

    @property
    def first_epoch(self) -> int:
        """Steps of it."""
        return min(self.steps_per_epoch, self.steps)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Of one phase."""

    phase: Phase
    bottleneck: str
    starved: bool
    """Training waits for batches."""
    of_loader: bool
    """The bottleneck is in the loader's thread."""
    images_per_second: float
    """Source images over all ranks."""
    hours: float
    """Of this phase."""
    next_bottleneck: str
    """What would limit it if this did not."""
    ceiling: float
    """Images a second at which it would."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Of the run."""

    phases: tuple[Verdict, ...]
    """One, or first epoch and later epochs where these differ."""

    @property
    def main(self) -> Verdict:
        """Where most of the run's time goes."""
        return max(self.phases, key=lambda verdict: verdict.hours)

    @property
    def hours(self) -> float:
        """Of the whole run."""
        return sum(verdict.hours for verdict in self.phases)


def diagnose(first: Phase, later: Phase | None, alone: Alone, length: Length) -> Diagnosis:
    """Judge each phase.

    Args:
        first: epoch.
        later: epochs, where they differ from it.
        alone: of the slowest ranks.
        length: of the run.
    """
    if later is None:
        return Diagnosis(phases=(judge(first, alone, length.global_batch, length.steps),))
    parts = ((first, length.first_epoch), (later, length.steps - length.first_epoch))
    return Diagnosis(phases=tuple(judge(phase, alone, length.global_batch, steps) for phase, steps in parts if steps))


def judge(phase: Phase, alone: Alone, global_batch: int, steps: int) -> Verdict:
    """Name the bottleneck of a phase.

    If training waits for batches, it is the stage that takes the loader's thread longest, which reads, decodes and
    draws one after another. On shared cores training may wait little and be slowed all the same: so it is, too, where
    the loader alone would take longer than training alone. Otherwise it is the longest of what training does.
    """
    trainer = alone.trainer_seconds()
    starved = phase.wait_share >= STARVED_SHARE
    of_loader = starved or phase.loader_alone_seconds > sum(trainer.values())
    bottleneck = _longest(phase.loader_seconds if of_loader else trainer)
    # Without what limits it: the loader's other stages still follow one another, and so do training's.
    loader_rest = sum(took for stage, took in phase.loader_seconds.items() if not of_loader or stage != bottleneck)
    trainer_rest = sum(trainer[stage] for stage in TRAINER_STAGES if of_loader or stage != bottleneck)
    rest = {stage: phase.loader_seconds.get(stage, 0.0) for stage in STAGES} if loader_rest > trainer_rest else trainer
    rest = {stage: seconds for stage, seconds in rest.items() if stage != bottleneck}
    return Verdict(
        phase=phase,
        bottleneck=bottleneck,
        starved=starved,
        of_loader=of_loader,
        images_per_second=global_batch / phase.step_seconds,
        hours=steps * phase.step_seconds / 3600,
        next_bottleneck=_longest(rest),
        ceiling=global_batch / max(loader_rest, trainer_rest, 1e-9),
    )


def reckon(name: str, loader_seconds: Mapping[str, float], alone: Alone) -> Phase:
    """A phase that would take too long to measure: the slower side sets the pace, each undisturbed by the other."""
    loader, trainer = sum(loader_seconds.values()), sum(alone.trainer_seconds().values())
    step = max(loader, trainer)
    return Phase(
        name=name,
        step_seconds=step,
        wait_share=1 - trainer / step,
        loader_seconds=loader_seconds,
        loader_alone_seconds=loader,
        steps=0,
    )


def _longest(seconds: Mapping[str, float]) -> str:
    return max((stage for stage in STAGES if stage in seconds), key=lambda stage: seconds[stage])
