"""Settings of the network and its loss."""

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import PositiveFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The network whose output h is the representation."""

    name: str = "resnet50"
    """resnet18, resnet34, resnet50, resnet101, resnet152, or any model that timm can create."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: 7x7 stride 2 and max-pool. cifar: 3x3 stride 1, no max-pool (Chen et al. 2020, appendix B.9)."""
    width: PositiveFloat = 1.0
    """Multiplies every channel count of a ResNet; 2 and 4 in the paper, below 1 for CPUs."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The projection head, thrown away after pretraining."""

    dim: PositiveInt = 128
    """Length of the projection z."""
    layers: Literal[2, 3] = 2
    """Of the MLP: 2 in the paper, 3 in SimCLR v2."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """NT-Xent."""

    temperature: PositiveFloat = 0.1
    """tau: 0.1 on ImageNet, 0.5 on CIFAR-10 in the paper."""
    scale: PositiveFloat = 1.0
    """Multiplies the gradient; 2 reproduces the reference code, whose loss is a sum of two means. Reported losses are
    unscaled. LARS hides the scale only on the weights that it adapts."""
