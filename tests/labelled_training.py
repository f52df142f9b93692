"""Classifiers small enough for a test, trained here or on every rank of a pool."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eval.classifier import Classifier, Recipe
from eval.classifier_file import Progress
from eval.classifier_run import Training, answers, learn
from model.config import EncoderConfig
from model.encoder import build_encoder
from model.export import EncoderDescription
from pipelines.config import DataConfig, ViewsConfig
from pipelines.label_subsets import take
from pipelines.manifest import open_split

CPU = torch.device("cpu")
SMALL = EncoderConfig(name="resnet18", stem="cifar", width=0.0625)
CROP_FLIP = ViewsConfig(
    size=16, reference="torchvision", jitter_probability=0, grayscale_probability=0, blur_probability=0
)


class MeanColour(nn.Module):
    """An encoder that cannot learn: the mean of each channel, times ten."""

    num_features = 3

    def forward(self, views: Tensor) -> Tensor:
        """(B, 3, s, s) -> (B, 3)."""
        return 10 * views.mean(dim=(2, 3))


def recipe(**changes: Any) -> Recipe:
    """Four epochs of the session's 64 images, unless changed."""
    usual: dict[str, Any] = {
        "steps": 16,
        "batch": 16,
        "peak_lr": 0.1,
        "views": CROP_FLIP,
        "precision": "fp32",
        "seed": 0,
    }
    return Recipe(**usual | changes)


def training(shards: Path, start: str = "", **changes: Any) -> Training:
    """Of the session's train images."""
    split = open_split(shards, "train")
    return Training(name="tiny", split=split, data=DataConfig(canvas=32), recipe=recipe(**changes), start=start)


def classifier(recipe: Recipe, encoder: Any = None, mean: float = 0.0, std: float = 1.0) -> Classifier:
    """For the session's 4 classes; by default on a random ResNet-18 of a sixteenth of the width."""
    if encoder is None:
        torch.manual_seed(1)
        encoder = build_encoder(SMALL, recipe.views.size)
    description = EncoderDescription(
        encoder=SMALL,
        image_size=recipe.views.size,
        mean=(mean, mean, mean),
        std=(std, std, std),
        data_name="tiny",
        data_fingerprint="",
        config_sha256="",
        step=0,
        images_seen=0,
    )
    return Classifier(encoder, encoder.num_features, 4, description, recipe)


def accelerator() -> Any:
    """What learning wants of Accelerate, in a pool of ranks whose group is not Accelerate's."""

    def prepare(module: nn.Module) -> nn.Module:
        return DistributedDataParallel(module, broadcast_buffers=False) if dist.is_initialized() else module

    return SimpleNamespace(device=CPU, prepare=prepare)


def train_in_float64(
    shards: Path, directory: Path, changes: dict[str, Any]
) -> tuple[dict[str, Tensor], Progress, list[int]]:
    """Weights, losses and answers of a whole training."""
    trained = training(shards, **changes)
    network = classifier(trained.recipe).double()
    progress = learn(trained, network, accelerator(), directory)
    predictions = answers(network, open_split(shards, "test"), trained, 7, CPU)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}, progress, predictions.tolist()


def answers_by_colour(shards: Path, images: int) -> list[int]:
    """What an untrained linear layer on the mean colour says of the first test images."""
    how = training(shards)
    network = classifier(how.recipe, MeanColour(), mean=0.5)
    generator = torch.Generator().manual_seed(0)
    nn.init.normal_(network.linear.weight, generator=generator)
    test = take(open_split(shards, "test"), np.arange(images))
    return answers(network, test, how, 2, CPU).tolist()
