"""The examination: what is read, every stage alone, then together as in the first epoch and in later ones."""

import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from ops.doctor.alone import gradient_bytes, time_loader, time_training, time_transfer
from ops.doctor.config import DoctorConfig
from ops.doctor.diagnosis import Diagnosis, Length, diagnose
from ops.doctor.kept import Kept, what_is_kept
from ops.doctor.measurements import Alone, Straggler, slowest, stragglers
from ops.doctor.phases import Setting, first_epoch, later_epochs
from ops.doctor.reading import Reading, measure_reading
from pipelines.manifest import SplitIndex
from train.build import build
from train.distributed import make_accelerator, ranks_on_node
from train.ranks import Ranks
from train.same_everywhere import refuse_differing_ranks


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Of all ranks; the same on each, but for `reading`."""

    diagnosis: Diagnosis
    alone: Alone
    """Of the slowest ranks."""
    stragglers: tuple[Straggler, ...]
    kept: Kept
    reading: Reading
    gradient_bytes: int
    length: Length
    world_size: int
    ranks_on_node: int
    device: str
    """Kind of it."""


def examine(config: DoctorConfig, split: SplitIndex, ranks: Ranks) -> Findings:
    """Measure on this rank, beside the others.

    Raises:
        DataError: the data cannot be read.
        ModelError: there is no such encoder or head.
        RunError: device, precision or ranks are not what was asked.
    """
    accelerator = make_accelerator(config)
    refuse_differing_ranks(config, split, ranks)
    # A static graph forbids the step without reduction that tells what the reduction costs.
    trainer, _ = build(replace(config, ddp=replace(config.ddp, static_graph=False)), split, accelerator)
    kept = what_is_kept(split, config.data, config.views, accelerator.device, ranks_on_node())
    with ExitStack() as stack:
        work = config.data.cache_dir
        if kept.source == "copies" or kept.canvases == "disk":
            directory = Path(work).expanduser()
            directory.mkdir(parents=True, exist_ok=True)
            work = stack.enter_context(tempfile.TemporaryDirectory(prefix="doctor-", dir=directory))
        _say(ranks, "storage")
        reading = measure_reading(config, split, ranks, kept, work)
        reading = replace(reading, data=replace(reading.data, cache_dir=work))
        _say(ranks, "decoding")
        batches, of_loader = time_loader(trainer, ranks, reading, config.seconds / 10)
        _say(ranks, "augmentation, training step" + (", all-reduce" if ranks.control else ""))
        seconds = {
            **reading.seconds,
            "decode": of_loader["decode"],
            "draw": of_loader["draw"],
            **time_training(trainer, ranks, batches, config.seconds / 10),
            "transfer": time_transfer(
                trainer,
                ranks,
                batches[0],
                keeps_canvases=kept.canvases != "none",
                encoded_bytes=int(split.samples["size"].mean() * len(batches[0].sample_id)),
                seconds=config.seconds / 20,
            ),
        }
        everyone = [Alone(seconds=json.loads(text)) for text in ranks.texts(json.dumps(seconds))]
        alone = slowest(everyone)
        setting = Setting(
            config=config, split=split, trainer=trainer, ranks=ranks, kept=kept, reading=reading, alone=alone
        )
        _say(ranks, f"all together, about {config.seconds:g} s")
        first, later = first_epoch(setting), later_epochs(setting)
    length = Length(
        global_batch=config.global_batch,
        steps_per_epoch=trainer.steps_per_epoch,
        steps=min(config.stop_after_steps or trainer.total_steps, trainer.total_steps),
    )
    return Findings(
        diagnosis=diagnose(first, later, alone, length),
        alone=alone,
        stragglers=tuple(stragglers(everyone)),
        kept=kept,
        reading=reading,
        gradient_bytes=gradient_bytes(trainer),
        length=length,
        world_size=ranks.world_size,
        ranks_on_node=ranks_on_node(),
        device=accelerator.device.type,
    )


def _say(ranks: Ranks, stage: str) -> None:
    """To a person who waits."""
    if ranks.rank == 0 and sys.stderr.isatty():
        print(f"measuring {stage}", file=sys.stderr, flush=True)
