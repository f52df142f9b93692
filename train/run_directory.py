"""What a run writes into its directory at the start, and says; and where its lines go."""

import json
import logging
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.manifest import SplitIndex
from train.arguments import to_yaml
from train.config import PretrainConfig
from train.errors import RunError

if TYPE_CHECKING:
    from train.trainer import Trainer

logger = logging.getLogger(__name__)


def announce(config: PretrainConfig, split: SplitIndex, trainer: "Trainer", first_step: int, last_step: int) -> None:
    """Write the resolved configuration into the run directory and say what is about to happen.

    Raises:
        RunError: it cannot be written.
    """
    from model.batchnorm import has_batchnorm
    from model.encoder import count_parameters

    run_dir = Path(config.run_dir)
    partial = run_dir / ".config.yaml.partial"
    try:
        partial.write_text(to_yaml(config))
        partial.replace(run_dir / "config.yaml")
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(
            f"{run_dir}/config.yaml: cannot be written ({error.strerror}); make room and start the same command again"
        ) from None
    accelerator = trainer.accelerator
    parameters = count_parameters(trainer.model) / 1e6
    print(
        f"{config.encoder.name} x{config.encoder.width:g}, {parameters:.2f} M parameters with head; "
        f"{len(split):,} images of {split.manifest.name}; {accelerator.num_processes} x {accelerator.device.type}, "
        f"{config.precision}"
    )
    if config.micro_batch and has_batchnorm(trainer.model):
        where = "of all ranks" if config.global_batchnorm else "of each rank"
        print(
            f"BatchNorm sees micro-batches of {config.micro_batch} images {where}; without it (--encoder.norm group "
            "--head.batchnorm false) the update would be that of the whole batch"
        )
    if first_step >= last_step:
        print(f"step {first_step} of {trainer.total_steps} is reached already; nothing to do", flush=True)
    elif first_step:
        print(
            f"resuming after step {first_step} of {trainer.total_steps} in {run_dir}, to step {last_step}", flush=True
        )
    else:
        print(f"starting in {run_dir}, to step {last_step} of {trainer.total_steps}", flush=True)


def note_start(config: PretrainConfig, first_step: int, world_size: int) -> int:
    """Add a line to RUN/starts.jsonl; returns how many times the run had been started before."""
    path = Path(config.run_dir) / "starts.jsonl"
    start = {"time": round(time.time()), "step": first_step, "world_size": world_size, "host": platform.node()}
    try:
        before = len(path.read_text().splitlines()) if path.exists() else 0
        with path.open("a") as file:
            file.write(json.dumps(start) + "\n")
    except OSError as error:
        logger.warning("%s cannot be written (%s); restarts are not counted", path, error.strerror)
        return 0
    return before


def log_path(config: PretrainConfig, change: int) -> Path:
    """Where the log lines go; after `allow_config_change` into a file of their own, as steps are counted anew."""
    return Path(config.run_dir) / (f"metrics.change-{change}.jsonl" if change else "metrics.jsonl")
