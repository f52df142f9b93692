"""First epoch and later epochs: each trained for a while, with the samples as near as that epoch will find them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from ops.doctor.config import DoctorConfig
from ops.doctor.diagnosis import reckon
from ops.doctor.kept import Kept
from ops.doctor.measurements import Alone, Phase, slowest_phase
from ops.doctor.reading import KEPT_BATCHES, Reading
from ops.doctor.storage import drop_shards_from_page_cache, only_shards
from ops.doctor.together import Course, train_together
from pipelines.manifest import SplitIndex
from train.ranks import Ranks
from train.trainer import Trainer

_FIRST, _LATER = "first epoch", "later epochs"
_LEAST_STEPS = 8
"""Of an epoch that is worth training in; a shorter one is reckoned."""
_PATIENCE = 4
"""Times `seconds` that a phase may take; a slower one is reckoned."""
_ENDLESS = 2**40
"""Steps."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the phases of one examination share, on this rank."""

    config: DoctorConfig
    split: SplitIndex
    trainer: Trainer
    ranks: Ranks
    kept: Kept
    reading: Reading
    alone: Alone
    """Of the slowest ranks."""

    @property
    def epochs_differ(self) -> bool:
        """Whether later epochs have less to do than the first."""
        return self.kept.canvases != "none" or (self.kept.reading and not self.reading.is_warm)


def first_epoch(setting: Setting) -> Phase:
    """With everything still to be read and decoded; of a run whose epochs are all alike, any of them.

    Raises:
        DataError: the data cannot be read.
    """
    known, reading = setting.alone.seconds, setting.reading
    near = known["storage_warm"] if reading.is_warm or setting.kept.source == "copies" else known["storage_cold"]
    loader = _decoding(setting, near or 0.0)
    if setting.kept.source == "copies":
        course = Course(
            name=_FIRST,
            split=reading.near,
            data=replace(reading.data, cache="none"),
            last_step=_ENDLESS,
            seconds=setting.config.seconds / (3 if setting.epochs_differ else 1),
            loader_alone_seconds=sum(loader.values()),
        )
        phase = _train(setting, course, loader) if reading.came else reckon(_FIRST, loader, setting.alone)
        return bounded_by_fetching(phase, known["fetch"] or 0.0)
    # Filling a cache on the disk costs little beside decoding, and would reserve room for the whole data set.
    data = replace(reading.data, cache="none") if setting.kept.canvases == "disk" else reading.data
    steps = setting.trainer.steps_per_epoch
    if setting.epochs_differ and steps < _LEAST_STEPS:
        return reckon(_FIRST, loader, setting.alone)
    if not reading.is_warm:
        drop_shards_from_page_cache(setting.split)
    course = Course(
        name=_FIRST,
        split=setting.split,
        data=data,
        last_step=steps if setting.epochs_differ else _ENDLESS,
        seconds=setting.config.seconds / (3 if setting.epochs_differ else 1),
        loader_alone_seconds=sum(loader.values()),
    )
    return _train(setting, course, loader)


def later_epochs(setting: Setting) -> Phase | None:
    """With what is kept near; None if that is nothing.

    A few batches stand for the data set: they are read or decoded once, untimed, and then learnt from again and again.

    Raises:
        DataError: the data cannot be read.
    """
    if not setting.epochs_differ:
        return None
    known, reading, batch = setting.alone.seconds, setting.reading, setting.config.global_batch
    loader = _decoding(setting, (known["storage_warm"] if setting.kept.reading else known["storage_cold"]) or 0.0)
    if setting.kept.canvases != "none":
        loader |= {"storage": 0.0, "decode": 0.0, "transfer": known["transfer"] or 0.0}
    if not reading.came:
        return reckon(_LATER, loader, setting.alone)
    batches = min(KEPT_BATCHES, len(reading.near) // batch)
    course = Course(
        name=_LATER,
        split=only_shards(reading.near, range(len(reading.near.shards)), batches * batch),
        data=replace(reading.data, cache=setting.kept.canvases),
        fill_steps=batches,
        last_step=_ENDLESS,
        seconds=setting.config.seconds,
        loader_alone_seconds=sum(loader.values()),
    )
    return _train(setting, course, loader)


def bounded_by_fetching(phase: Phase, fetch_seconds: float) -> Phase:
    """The same, where shards do not come faster than that many seconds a step."""
    if fetch_seconds <= phase.step_seconds:
        return phase
    busy = phase.step_seconds * (1 - phase.wait_share)
    return replace(
        phase,
        step_seconds=fetch_seconds,
        wait_share=1 - busy / fetch_seconds,
        loader_seconds={**phase.loader_seconds, "storage": fetch_seconds},
        loader_alone_seconds=max(fetch_seconds, phase.loader_alone_seconds),
    )


def _decoding(setting: Setting, reading_seconds: float) -> dict[str, float]:
    """Seconds a step of the loader's thread by itself, where it decodes."""
    known = setting.alone.seconds
    decode, draw = known["decode"] or 0.0, known["draw"] or 0.0
    return {"storage": reading_seconds, "decode": decode, "augment": draw, "transfer": 0.0}


def _train(setting: Setting, course: Course, loader_seconds: Mapping[str, float]) -> Phase:
    """Train for a while; reckon where that would take too long."""
    expected = max(sum(loader_seconds.values()), sum(setting.alone.trainer_seconds().values()))
    fast = int(course.seconds / 3 / expected)
    warm_up = max(2, min(2 + setting.config.data.prefetch_batches, fast))
    if course.last_step < course.fill_steps + 2 * warm_up:
        warm_up = 2
    needed = (course.fill_steps + warm_up + 3) * expected
    if needed > _PATIENCE * setting.config.seconds + 10:
        return reckon(course.name, loader_seconds, setting.alone)
    phase = train_together(setting.trainer, setting.ranks, replace(course, warm_up_steps=warm_up))
    phases = [Phase(**json.loads(text)) for text in setting.ranks.texts(json.dumps(asdict(phase)))]
    return slowest_phase(phases)
