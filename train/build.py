"""The trainer of a run as it begins: weights by the seed, on the device, under Accelerate."""

import warnings
from typing import TYPE_CHECKING

import torch

from model.batchnorm import with_global_batchnorm
from model.encoder import is_stochastic, prepare_encoder
from model.simclr import SimCLR
from pipelines.manifest import SplitIndex
from pipelines.order import steps_per_epoch
from train.config import PretrainConfig
from train.optimizer import build_optimizer
from train.probe import Probe
from train.trainer import Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator


def build(config: PretrainConfig, split: SplitIndex, accelerator: "Accelerator") -> tuple[Trainer, SimCLR]:
    """Make this rank's trainer, and the bare model inside it; `restore` of train/resume.py brings it further.

    Raises:
        ModelError: there is no such encoder or head.
    """
    torch.manual_seed(config.seed)
    model = SimCLR(config.encoder, config.head, config.views.size)
    if config.global_batchnorm:
        with_global_batchnorm(model, accelerator.device)
    prepare_encoder(model.encoder, compiled=config.compile, checkpoint_activations=config.checkpoint_activations)
    layout = torch.channels_last if config.uses_channels_last else torch.contiguous_format
    model.to(memory_format=layout).to(accelerator.device)
    optimizer = build_optimizer(config.optimizer, model)
    with warnings.catch_warnings():
        # Its successor is not among Accelerate's settings, and copies buffers at the start, which are equal already.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        wrapped_model, wrapped_optimizer = accelerator.prepare(model, optimizer)
    probe = None
    classes = len(split.manifest.classes)
    if config.probe.enabled and classes and (split.samples["label"] >= 0).any():
        probe = Probe(model.encoder.num_features, classes, config.probe.lr, accelerator.device)
    trainer = Trainer(
        config=config,
        accelerator=accelerator,
        model=wrapped_model.train(),
        optimizer=wrapped_optimizer,
        steps_per_epoch=steps_per_epoch(len(split), config.global_batch),
        probe=probe,
        draws_in_forward=is_stochastic(model.encoder),
    )
    return trainer, model
