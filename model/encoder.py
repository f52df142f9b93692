"""Encoders: timm's networks without classifier, with SimCLR's stems and true width multiplier for ResNets."""

import difflib
import inspect
import logging
import math
from typing import Any

import timm
import torch
from timm.layers import DropPath
from timm.models import build_model_with_cfg
from timm.models.resnet import BasicBlock, Bottleneck, ResNet, make_blocks
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.dropout import _DropoutNd

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
_RESNET_ARGUMENTS = ("drop_rate", "drop_path_rate", "drop_block_rate")
"""What a ResNet's arguments may set. Others would not reach the stem and first stage, which are made here."""
_REFUSED = {
    "features_only",
    *(
        name
        for function in (timm.create_model, build_model_with_cfg)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind != parameter.VAR_KEYWORD
    ),
}
"""What the arguments of timm's other models may not set: where weights come from, for they start random and nothing is
downloaded or loaded, and how timm makes a model. h is one vector per image."""
_FAULTS = (TypeError, ValueError, AssertionError, RuntimeError, LookupError, ArithmeticError, AttributeError)


def build_encoder(config: EncoderConfig, image_size: int) -> Any:
    """Create an encoder with random weights; the last norm of each residual block of a ResNet starts at zero.

    Args:
        config: which, and how wide.
        image_size: side of the views in pixels, which some models must know.

    Returns:
        A module (B, 3, s, s) -> (B, num_features), with the attribute `num_features`.

    Raises:
        ModelError: timm knows no such model or argument, the model gives no vector per image, or a stem, width or norm
            was asked for that only ResNets have.
    """
    if config.name in _RESNETS:
        return _resnet(config)
    if config.width != 1 or config.stem != "imagenet" or config.norm != "batch":
        raise ModelError(
            "encoder.width, encoder.stem = cifar and encoder.norm = group need one of "
            f"{', '.join(_RESNETS)}, not {config.name}"
        )
    return _of_timm(config, image_size)


def prepare_encoder(encoder: Any, *, compiled: bool, checkpoint_activations: bool) -> None:
    """Make an encoder trade memory for time, or compile it, in place; names in the state dict stay.

    Activations that are computed again in backward enter BatchNorm's running statistics a second time, unless the
    caller puts these back (`RunningStatistics.kept`).

    Raises:
        ModelError: the model cannot compute activations again.
    """
    if checkpoint_activations:
        try:
            encoder.set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise ModelError(f"checkpoint_activations = true: this encoder cannot ({error}); use false") from None
    if compiled:
        encoder.compile(dynamic=False)


def is_stochastic(encoder: nn.Module) -> bool:
    """Whether a forward pass in training draws random numbers: dropout or stochastic depth."""
    return any(_draws(module) for module in encoder.modules())


def count_parameters(module: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _resnet(config: EncoderConfig) -> ResNet:
    """A ResNet in which every channel count is multiplied by the width.

    timm's `channels` leaves the stem at 64, so stem and first stage are made here; names stay timm's and torchvision's.
    """
    block, blocks = _RESNETS[config.name]
    try:
        channels = tuple(round(count * config.width) for count in _STAGE_CHANNELS)
    except OverflowError:
        raise ModelError(f"encoder.width = {config.width}: too large") from None
    if min(channels) < 1:
        raise ModelError(f"encoder.width = {config.width}: leaves no channels")
    for name in config.arguments:
        if name not in _RESNET_ARGUMENTS:
            raise ModelError(
                f"encoder.arguments = {config.arguments}: of {config.name}, only {', '.join(_RESNET_ARGUMENTS)} "
                f"can be set, not {name}"
            )
    norm = nn.BatchNorm2d if config.norm == "batch" else _group_norm
    try:
        model = ResNet(block, list(blocks), num_classes=0, channels=channels, norm_layer=norm, **config.arguments)
    except _FAULTS as error:
        raise ModelError(f"encoder.arguments = {config.arguments}: {_said(error)}") from None
    stem = channels[0]
    if config.stem == "cifar":
        model.conv1 = nn.Conv2d(3, stem, kernel_size=3, stride=1, padding=1, bias=False)
        model.maxpool = nn.Identity()
    else:
        model.conv1 = nn.Conv2d(3, stem, kernel_size=7, stride=2, padding=3, bias=False)
    model.bn1 = norm(stem)
    first_stage = model.layer1
    ((_, model.layer1),) = make_blocks((block,), channels[:1], blocks[:1], stem, norm_layer=norm)[0]
    for ours, theirs in zip(model.layer1, first_stage, strict=True):
        ours.drop_path = theirs.drop_path  # its rate is a function of the whole depth
    model.init_weights()
    return model


def _group_norm(channels: int, **factory: Any) -> nn.GroupNorm:
    """32 groups (Wu & He 2018), or fewer so that a group keeps eight channels or more."""
    return nn.GroupNorm(math.gcd(32, max(1, channels // 8)), channels, **factory)


def _of_timm(config: EncoderConfig, image_size: int) -> Any:
    if config.name not in timm.list_models():
        near = difflib.get_close_matches(config.name, [*_RESNETS, *timm.list_models()], n=1)
        raise ModelError(
            f"encoder.name = {config.name}: neither one of {', '.join(_RESNETS)} nor a model of timm"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    for name in config.arguments:
        if name in _REFUSED:
            raise ModelError(f"encoder.arguments = {config.arguments}: {name} cannot be set")
    pretrained = timm.get_pretrained_cfg(config.name)
    size = {"img_size": image_size} if pretrained is not None and pretrained.fixed_input_size else {}
    log = logging.getLogger("torch._subclasses.fake_tensor")  # prints a traceback before it raises
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        encoder: Any = timm.create_model(config.name, num_classes=0, **(size | config.arguments))
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            shape = encoder.eval()(torch.zeros(2, 3, image_size, image_size)).shape
    except _FAULTS as error:
        raise ModelError(
            f"encoder.name = {config.name} with encoder.arguments = {config.arguments} at {image_size} pixels: "
            f"{_said(error)}"
        ) from None
    finally:
        log.setLevel(level)
    if len(shape) != 2:
        raise ModelError(f"encoder.name = {config.name}: gives {tuple(shape)} for two images, not a vector for each")
    if encoder.num_features != shape[1]:
        encoder.num_features = shape[1]  # of some, timm counts the channels before a last layer
    return encoder.train()


def _said(error: Exception) -> str:
    """What was raised, in one line; some errors of timm have no text."""
    return f"{type(error).__name__} {' '.join(str(error).split())[:200]}".strip()


def _draws(module: nn.Module) -> bool:
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, DropPath):
        return bool(module.drop_prob)
    if getattr(module, "drop_rate", 0):  # of timm's models, in forward_head
        return True
    if any(getattr(module, f"{change}_coords", None) is not None for change in ("shift", "jitter", "rescale")):
        return True  # rotary positions, which are changed in training
    return type(module).__name__ in ("DropBlock2d", "PatchDropout", "PatchDropoutWithIndices")
