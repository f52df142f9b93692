"""What a run writes beside its checkpoints: the resolved configuration and the encoder; and whose directory it is."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.manifest import SplitIndex
from train.arguments import to_yaml
from train.config import PretrainConfig, load_config
from train.errors import RunError

if TYPE_CHECKING:
    from model.simclr import SimCLR
    from train.loop import Trainer


def refuse_other_run(config: PretrainConfig) -> None:
    """Check that the run directory is free or holds the run that this configuration describes.

    Raises:
        RunError: it holds checkpoints of a run that differs in a field which shapes the result.
    """
    path = Path(config.run_dir) / "config.yaml"
    if not path.exists() or not any((Path(config.run_dir) / "checkpoints").glob("step-*")):
        return
    there, asked = load_config(path).numeric(), config.numeric()
    for name, value in asked.items():
        if there.get(name) != value:
            raise RunError(
                f"{config.run_dir}: holds a run with {name} = {there.get(name)}, but {value} was asked for; "
                "give another --run_dir, or the same value to resume"
            )


def announce(config: PretrainConfig, split: SplitIndex, trainer: "Trainer", first_step: int, last_step: int) -> None:
    """Write the resolved configuration into the run directory and say what is about to happen."""
    from model.batchnorm import has_batchnorm
    from model.encoder import count_parameters

    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    partial = run_dir / ".config.yaml.partial"
    partial.write_text(to_yaml(config))
    partial.replace(run_dir / "config.yaml")
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


def save_run(config: PretrainConfig, split: SplitIndex, trainer: "Trainer", model: "SimCLR", step: int) -> None:
    """Write a checkpoint and the encoder, on rank 0; every rank holds the same, or does after this."""
    from model.export import EncoderDescription, save_encoder
    from model.running_statistics import average_running_statistics
    from train.checkpoint import Checkpoint, optimizer_tensors, save_checkpoint

    if not config.global_batchnorm:
        average_running_statistics(model)

    if not trainer.accelerator.is_main_process:
        return
    scaler = trainer.accelerator.scaler
    checkpoint = Checkpoint(
        step=step,
        model=model.state_dict(),
        optimizer=optimizer_tensors(trainer.optimizer.optimizer, model),
        probe=trainer.probe.state() if trainer.probe else {},
        scaler=scaler.state_dict() if scaler else {},
        config=config.numeric(),
        data_fingerprint=split.manifest.fingerprint,
    )
    save_checkpoint(Path(config.run_dir) / "checkpoints", checkpoint, config.checkpoint.keep_last)
    description = EncoderDescription(
        encoder=config.encoder,
        image_size=config.views.size,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        data_name=split.manifest.name,
        data_fingerprint=split.manifest.fingerprint,
        config_sha256=config.sha256(),
        step=step,
        images_seen=step * config.global_batch,
    )
    save_encoder(Path(config.run_dir) / "encoder", model.encoder.state_dict(), description)
