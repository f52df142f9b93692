"""Repeat the step in which a run broke down, and show where in it that began.

    python -m train.replay RUN/non_finite/step-00001234 --precision fp32

A step is a function of seed and step, and a checkpoint holds the whole state: so the run goes on from its newest
checkpoint, in one process with the whole global batch, until something is not finite. Nothing is written.
"""

import json
import logging
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from model.errors import ModelError
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex
from pipelines.order import IdArray, rank_positions
from train.arguments import parse
from train.config import DDPConfig, PretrainConfig, load_config
from train.distributed import environment_world_size, fail, make_accelerator, share_cores
from train.errors import RunError
from train.pretrain import open_data
from train.replay_report import as_text, notes, places, verdict

if TYPE_CHECKING:
    from model.simclr import SimCLR
    from train.checkpoint import Checkpoint
    from train.trainer import Trainer
    from train.witness import Examination


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Repetition of the step in which a run broke down, in one process with the whole global batch."""

    record: str = ""
    """Directory RUN/non_finite/step-N; the flag may be left out."""
    precision: Literal["run", "fp32", "bf16"] = "run"
    """run: the run's own. fp32 shows whether only bf16 or fp16 overflowed."""
    device: Literal["run", "auto", "cpu", "cuda"] = "run"
    """run: the run's own. It must hold the whole global batch."""
    from_checkpoint: str = ""
    """Directory of checkpoints from whose newest to go on, instead of the run's. start: from new weights."""
    json: bool = False
    """Print JSON instead of text."""

    def __post_init__(self) -> None:
        if not self.record:
            raise ValueError("record: none named; give RUN/non_finite/step-N of a run that broke down")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the ranks left when they stopped."""

    directory: Path
    step: int
    """Of the batch, from 0."""
    world_size: int
    sample_id: IdArray
    """(global batch,), in its order."""

    @property
    def run_dir(self) -> Path:
        """That the record lies in."""
        return self.directory.absolute().parents[1]


def main() -> None:
    """Refuse what is wrong before torch is imported, then repeat and report."""
    share_cores()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        config = parse(ReplayConfig, name_record(sys.argv[1:]), prog="replay")
        report = replay(config, read_record(Path(config.record)))
    except (RunError, DataError, ModelError) as error:
        fail("replay", error, show=True)
    print(json.dumps(report, indent=1) if config.json else as_text(report))


def name_record(arguments: Sequence[str]) -> list[str]:
    """Put `--record=` before the first argument that is neither a flag nor a flag's value."""
    named = list(arguments)
    for i, (before, word) in enumerate(zip(["", *named], named, strict=False)):
        if not word.startswith("-") and not (before.startswith("--") and "=" not in before):
            named[i] = f"--record={word}"
            break
    return named


def read_record(directory: Path) -> Record:
    """Join what the ranks wrote.

    Raises:
        RunError: a rank's file is missing or is not one that train/non_finite.py writes.
    """
    if not directory.is_dir():
        raise RunError(f"{directory}: no such directory; give RUN/non_finite/step-N of a run that broke down")
    first = _read_rank(directory, 0)
    step, world_size = int(first["step"]), int(first["world_size"])
    sample_id = np.empty(len(first["sample_id"]) * world_size, dtype=np.int64)
    for rank in range(world_size):
        part, places = _read_rank(directory, rank), rank_positions(len(sample_id), rank, world_size)
        if (part["step"], part["world_size"], len(part["sample_id"])) != (step, world_size, len(places)):
            raise RunError(f"{directory}: rank-{rank}.json is of another run than rank-0.json; keep those of one")
        sample_id[places] = part["sample_id"]
    return Record(directory=directory, step=step, world_size=world_size, sample_id=sample_id)


def _read_rank(directory: Path, rank: int) -> dict[str, Any]:
    path = directory / f"rank-{rank}.json"
    try:
        content = json.loads(path.read_text())
        numbers = [content["step"], content["world_size"] - 1, *content["sample_id"]]
        known = content["format"] == "diptych-batch" and all(type(n) is int and n >= 0 for n in numbers)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; a record has one of every rank, on the node where it ran") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from None
    except (KeyError, TypeError):
        known = False
    if not known:
        raise RunError(f"{path}: not the record of a batch that was not finite")
    return dict(content)


def replay(config: ReplayConfig, record: Record) -> dict[str, Any]:
    """Repeat until something is not finite, at most to the record's step; returns what `--json true` prints.

    Raises:
        RunError: the run, its checkpoint or room on the device is missing, or the batch is not that of the record.
        DataError: the data is missing or damaged.
    """
    if environment_world_size() != 1:
        raise RunError("replay runs in one process; start it without a launcher")
    if not (record.run_dir / "config.yaml").is_file():
        raise RunError(f"{record.run_dir}: no config.yaml; the record must lie in RUN/non_finite of its run")
    run = load_config(record.run_dir / "config.yaml")
    if len(record.sample_id) != run.global_batch:
        raise RunError(f"{record.directory}: {len(record.sample_id)} samples, but global_batch = {run.global_batch}")
    asked = as_asked(run, config, record.world_size)
    split = open_data(asked, 1)
    import torch

    from train.build import build
    from train.resume import refuse_other_data, restore

    accelerator = make_accelerator(asked)
    checkpoint = load_checkpoint(config, record)
    trainer, model = build(asked, split, accelerator)
    if checkpoint:
        refuse_other_data(checkpoint.state, asked, split)
        restore(checkpoint, trainer, model)
    first_step = checkpoint.step if checkpoint else 0
    try:
        examined = examine_until_broken(asked, split, trainer, model, first_step, record)
    except torch.OutOfMemoryError:
        raise RunError(f"global_batch = {run.global_batch}: too much for the device; use --device cpu") from None
    return {
        "run_dir": str(record.run_dir),
        "recorded_step": record.step + 1,
        "from_step": first_step,
        "world_size": record.world_size,
        "precision": asked.precision,
        "device": str(accelerator.device),
        "global_batch": run.global_batch,
        "verdict": verdict(examined, run.precision, asked.precision),
        **asdict(examined),
        "samples": places(split, asked, examined),
        "notes": notes(run, asked, record.world_size, draws_in_forward=trainer.draws_in_forward),
    }


def as_asked(run: PretrainConfig, config: ReplayConfig, world_size: int) -> PretrainConfig:
    """The run's configuration for one process; what does not touch the numbers is left out."""
    # A micro-batch of one rank's images gives BatchNorm the statistics that this rank had.
    by_rank = run.global_batch // world_size if world_size > 1 and not run.global_batchnorm else 0
    return replace(
        run,
        precision=run.precision if config.precision == "run" else config.precision,
        device=run.device if config.device == "run" else config.device,
        micro_batch=run.micro_batch or by_rank,
        data=replace(run.data, bad_sample_budget=1.0),  # of each rank, all of which this process replaces
        views=replace(run.views, compile=False),
        probe=replace(run.probe, enabled=False),
        ddp=DDPConfig(),
        compile=False,  # hooks see nothing inside
    )


def load_checkpoint(config: ReplayConfig, record: Record) -> "Checkpoint | None":
    """The newest; where there is none, the step is repeated from the start.

    A run that has broken down writes no more: the newest lies before the step.

    Raises:
        RunError: there is none where one was named, or it lies after the step.
    """
    from train.checkpoint import load_latest

    if config.from_checkpoint == "start":
        return None
    directory = Path(config.from_checkpoint) if config.from_checkpoint else record.run_dir / "checkpoints"
    checkpoint = load_latest(directory)
    if checkpoint is None and config.from_checkpoint:
        raise RunError(f"from_checkpoint = {directory}: has no checkpoint step-N")
    if checkpoint is not None and checkpoint.step > record.step:
        raise RunError(
            f"{directory}: its newest checkpoint was made after {checkpoint.step} updates, but update "
            f"{record.step + 1} is to be repeated; name a directory of earlier ones with --from_checkpoint, or start"
        )
    return checkpoint


def examine_until_broken(
    config: PretrainConfig, split: SplitIndex, trainer: "Trainer", model: "SimCLR", first_step: int, record: Record
) -> "Examination":
    """Make updates until one is broken, or that of the record is made.

    Raises:
        RunError: the batch of the record's step has other samples.
    """
    from tqdm import tqdm

    from pipelines.loader import Share, training_batches
    from pipelines.prefetch import Prefetch
    from train.witness import Witness

    share = Share(global_batch=config.global_batch, seed=config.seed, first_step=first_step, last_step=record.step + 1)
    stop = threading.Event()
    batches = training_batches(split, config.data, config.views, share, trainer.accelerator.device, stop=stop)
    witness, examined = Witness(trainer, model), None
    with Prefetch(batches, config.data.prefetch_batches, stop) as ahead:
        for batch in tqdm(ahead, total=record.step + 1 - first_step, unit="step", leave=False, disable=None):
            if batch.step == record.step:
                _refuse_other_samples(batch.sample_id.numpy(), record)
            if examined is None or not examined.broken:
                examined = witness.examine(batch)
    assert examined is not None  # noqa: S101  # first_step is at most the record's
    return examined


def _refuse_other_samples(sample_id: IdArray, record: Record) -> None:
    for place in np.flatnonzero(sample_id != record.sample_id)[:1]:
        raise RunError(
            f"{record.directory}: the batch has other samples than then; the first that differs, in place {place}, "
            f"was {record.sample_id[place]} and is {sample_id[place]}; give data.dir the data that the run had"
        )


if __name__ == "__main__":
    main()
