"""The log lines' numbers for TensorBoard or Weights & Biases, through Accelerate's trackers; off by default."""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.config import PretrainConfig
from train.errors import RunError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from train.log_line import LogLine


def refuse_missing_trackers(config: PretrainConfig) -> None:
    """Accelerate would leave them out without a word.

    Raises:
        RunError: one that was asked for is not installed.
    """
    for tracker in config.metrics.trackers:
        if find_spec(tracker) is None:
            raise RunError(f"metrics.trackers = {tracker}: not installed; run pip install 'diptych[track]'")


def start_trackers(accelerator: "Accelerator", config: PretrainConfig) -> None:
    """Begin on rank 0, or go on where the run was stopped.

    TensorBoard writes to RUN/tensorboard/, W&B to project diptych under an id made of the run directory's path.
    """
    if not config.metrics.trackers:
        return
    run_dir = Path(config.run_dir)
    identity = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]
    wandb = {"name": run_dir.name, "id": identity, "resume": "allow", "dir": config.run_dir}
    settings = {name: value for name, value in config.numeric().items() if isinstance(value, int | float | str | bool)}
    accelerator.init_trackers("diptych", config=settings, init_kwargs={"wandb": wandb})


def track(accelerator: "Accelerator", line: "LogLine") -> None:
    """Write the numbers of a log line, if there are trackers."""
    numbers: dict[str, Any] = {
        "train/loss": line.loss,
        "train/learning_rate": line.learning_rate,
        "train/epoch": line.epoch,
        "train/images_per_second": line.images_per_second,
        "train/gradient_norm": line.gradient_norm,
        "train/largest_trust_ratio": line.largest_trust_ratio,
        "train/skipped_steps": line.skipped_steps,
        "train/left_out_batches": line.left_out_batches,
        "probe/top1": line.probe_top1,
    }
    numbers |= {f"health/{name}": value for name, value in line.health.items()}
    numbers |= {f"stage_seconds/{name}": value for name, value in line.stage_seconds.items()}
    accelerator.log({name: value for name, value in numbers.items() if value is not None}, step=line.step)


def finish_trackers(accelerator: "Accelerator") -> None:
    """Flush them; `Accelerator.end_training` would end the process group as well."""
    for tracker in accelerator.trackers:
        tracker.finish()
