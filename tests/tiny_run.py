"""What pretraining leaves behind, after no step at all, and its evaluation under way."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eval.config import EvaluateConfig
from eval.evaluation import Evaluation, begin
from eval.scores import ScoreBook
from eval.subject import open_subject
from model.config import EncoderConfig, HeadConfig
from model.description import EncoderDescription
from model.encoder_file import save_encoder
from model.simclr import SimCLR
from pipelines.config import DataConfig, ViewsConfig
from pipelines.manifest import read_manifest, write_manifest
from train.arguments import to_yaml
from train.checkpoint import Checkpoint, save_checkpoint
from train.checkpoint_files import CheckpointState
from train.config import CheckpointConfig, PretrainConfig, ScheduleConfig

ENCODER = EncoderConfig(name="resnet18", stem="cifar", width=0.0625)
STEP = 12


def tiny_run(
    run_dir: Path,
    data: Path,
    head: HeadConfig | None = None,
    checkpoint_step: int = STEP,
    encoder: EncoderConfig | None = None,
) -> Path:
    """A run directory with configuration, encoder and one checkpoint, of views of 16 pixels, seed 3, 2 epochs."""
    run_dir.mkdir(parents=True)
    config = PretrainConfig(
        run_dir=str(run_dir),
        data=DataConfig(dir=str(data), canvas=32),
        views=ViewsConfig(size=16, reference="torchvision"),
        encoder=encoder or ENCODER,
        head=head or HeadConfig(dim=8, layers=3),
        schedule=ScheduleConfig(epochs=2, warmup_epochs=0),
        global_batch=16,
        seed=3,
    )
    (run_dir / "config.yaml").write_text(to_yaml(config))
    torch.manual_seed(1)
    model = SimCLR(config.encoder, config.head, config.views.size)
    description = EncoderDescription(
        encoder=config.encoder,
        image_size=16,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        data_name="tiny",
        data_fingerprint=read_manifest(data).fingerprint,
        config_sha256=config.sha256(),
        step=STEP,
        images_seen=192,
    )
    save_encoder(run_dir / "encoder", model.encoder.state_dict(), description)
    state = CheckpointState(
        step=checkpoint_step, steps_per_epoch=4, config=config.numeric(), data_fingerprint="", scaler={}
    )
    checkpoint = Checkpoint(state=state, model=model.state_dict(), optimizer={}, probe={})
    save_checkpoint(run_dir / "checkpoints", checkpoint, CheckpointConfig())
    return run_dir


def begun(run_dir: Path, **fields: Any) -> tuple[Evaluation, ScoreBook]:
    """The evaluation of a run, or of an encoder alone, on the CPU; fields of EvaluateConfig."""
    evaluation = begin(open_subject(EvaluateConfig(run_dir=str(run_dir), device="cpu", **fields)))
    torch.set_num_threads(1)  # which `begin` has set to all cores
    encoder = {"weights_sha256": evaluation.weights_sha256}
    return evaluation, ScoreBook(evaluation.subject.output, encoder, {})


def rename(directory: Path, name: str, **made: str) -> Path:
    """Give a data set another name, and say how it was made."""
    manifest = read_manifest(directory)
    write_manifest(directory, replace(manifest, name=name, made=manifest.made | made))
    return directory
