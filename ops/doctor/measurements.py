"""What was measured, as plain numbers: on one rank, and of all ranks together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

STAGES = ("storage", "decode", "augment", "transfer", "step", "all_reduce")
"""What can be the bottleneck."""
LOADER_STAGES = {"read": "storage", "decode": "decode", "draw": "augment", "gather": "transfer", "transfer": "transfer"}
"""What the loader's thread does, and the stage that it belongs to: drawing is the host's part of augmentation, and
gathering is how canvases that were kept come to the device."""
TRAINER_STAGES = ("augment", "step", "all_reduce")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Loader and training together, in one part of the run."""

    name: str
    """first epoch, or later epochs."""
    step_seconds: float
    wait_share: float
    """Of these, without a batch to work on; of the rank that waited most."""
    loader_seconds: Mapping[str, float]
    """A step, of the loader's thread, by stage."""
    loader_alone_seconds: float
    """A step, of the loader's thread, with nothing beside it."""
    steps: int
    """That were timed; 0 where the phase was reckoned from the stages alone."""


@dataclass(frozen=True, kw_only=True)
class Alone:
    """Seconds a step of each stage by itself, None where there is no such thing here."""

    seconds: Mapping[str, float | None]
    """By what was measured: storage_cold, storage_warm, fetch, decode, draw, augment, transfer, step, all_reduce,
    all_reduce_exposed."""

    def trainer_seconds(self) -> dict[str, float]:
        """By stage, of what the training thread does. Of the all-reduce, what backward does not hide."""
        names = {"augment": "augment", "step": "step", "all_reduce": "all_reduce_exposed"}
        return {stage: self.seconds.get(name) or 0.0 for stage, name in names.items()}


@dataclass(frozen=True, kw_only=True)
class Straggler:
    """A rank that is slower than the others at a stage."""

    rank: int
    stage: str
    times: float
    """As slow as the median rank."""


def slowest(alone: Sequence[Alone]) -> Alone:
    """Of all ranks, by rank: each stage of the rank that it takes longest, which the others wait for."""
    names = list(dict.fromkeys(name for rank in alone for name in rank.seconds))
    known = {name: [value for rank in alone if (value := rank.seconds.get(name)) is not None] for name in names}
    return Alone(seconds={name: max(values, default=None) for name, values in known.items()})


def slowest_phase(phases: Sequence[Phase]) -> Phase:
    """Of all ranks: the steps are the same, the waiting is that of the rank that waits most, whose loader it is."""
    starved = max(phases, key=lambda phase: (phase.wait_share, sum(phase.loader_seconds.values())))
    return Phase(
        name=starved.name,
        step_seconds=max(phase.step_seconds for phase in phases),
        wait_share=starved.wait_share,
        loader_seconds=starved.loader_seconds,
        loader_alone_seconds=max(phase.loader_alone_seconds for phase in phases),
        steps=starved.steps,
    )


def stragglers(alone: Sequence[Alone], least_times: float = 1.5) -> list[Straggler]:
    """Ranks that take so many times as long as the median rank for a stage."""
    found = []
    for name in dict.fromkeys(name for rank in alone for name in rank.seconds):
        by_rank = {number: value for number, rank in enumerate(alone) if (value := rank.seconds.get(name)) is not None}
        usual = median(by_rank.values()) if len(by_rank) > 2 else min(by_rank.values(), default=0.0)
        found += [
            Straggler(rank=number, stage=name, times=value / usual)
            for number, value in by_rank.items()
            if usual > 0 and value >= least_times * usual
        ]
    return found
