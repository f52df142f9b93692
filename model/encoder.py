"""Encoders: timm's networks without classifier, with SimCLR's stems and true width multiplier for ResNets."""

from typing import Any

import timm
from timm.models.resnet import BasicBlock, Bottleneck, ResNet, make_blocks
from torch import nn

from model.config import EncoderConfig
from model.errors import ModelError

_RESNETS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}
_STAGE_CHANNELS = (64, 128, 256, 512)


def build_encoder(config: EncoderConfig) -> Any:
    """Create an encoder with random weights; the last BatchNorm of each residual block starts at zero.

    Returns:
        A module (B, 3, s, s) -> (B, num_features), with the attribute `num_features`.

    Raises:
        ModelError: timm knows no such model, or a stem or width was asked for that only ResNets have.
    """
    if config.name in _RESNETS:
        return _resnet(config)
    if config.width != 1 or config.stem != "imagenet":
        raise ModelError(f"encoder.width and encoder.stem = cifar need one of {', '.join(_RESNETS)}, not {config.name}")
    if config.name not in timm.list_models():
        raise ModelError(f"encoder.name = {config.name}: neither one of {', '.join(_RESNETS)} nor a model of timm")
    return timm.create_model(config.name, num_classes=0)


def count_parameters(module: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _resnet(config: EncoderConfig) -> ResNet:
    """A ResNet in which every channel count is multiplied by the width.

    timm's `channels` leaves the stem at 64, so stem and first stage are made here; names stay timm's and torchvision's.
    """
    block, blocks = _RESNETS[config.name]
    channels = tuple(round(count * config.width) for count in _STAGE_CHANNELS)
    if min(channels) < 1:
        raise ModelError(f"encoder.width = {config.width}: leaves no channels")
    model = ResNet(block, list(blocks), num_classes=0, channels=channels)
    stem = channels[0]
    if config.stem == "cifar":
        model.conv1 = nn.Conv2d(3, stem, kernel_size=3, stride=1, padding=1, bias=False)
        model.maxpool = nn.Identity()
    else:
        model.conv1 = nn.Conv2d(3, stem, kernel_size=7, stride=2, padding=3, bias=False)
    model.bn1 = nn.BatchNorm2d(stem)
    ((_, model.layer1),) = make_blocks((block,), channels[:1], blocks[:1], stem)[0]
    model.init_weights()
    return model
