"""Settings of the network and its loss."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The network whose output h is the representation."""

    name: str = "resnet50"
    """resnet18, resnet34, resnet50, resnet101, resnet152, or any model that timm can create."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: 7x7 stride 2 and max-pool. cifar: 3x3 stride 1, no max-pool (Chen et al. 2020, appendix B.9)."""
    width: PositiveFloat = 1.0
    """Multiplies every channel count of a ResNet; 2 and 4 in the paper, below 1 for CPUs."""
    norm: Literal["batch", "group"] = "batch"
    """Of a ResNet. group: GroupNorm (Wu & He 2018), whose samples do not depend on each other, so that an update in
    micro-batches equals the whole one."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further ones for timm's model, such as {patch_size: 4, drop_path_rate: 0.1}; a ResNet takes drop_rate,
    drop_path_rate and drop_block_rate. Models of one fixed image size get img_size = views.size without being told."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The projection head, thrown away after pretraining."""

    kind: Literal["mlp", "linear", "none"] = "mlp"
    """mlp: the paper's. linear: one layer. none: z is h."""
    dim: PositiveInt = 128
    """Length of the projection z; without a head it is that of h."""
    layers: Literal[2, 3] = 2
    """Of the MLP: 2 in the paper, 3 in SimCLR v2."""
    hidden: NonNegativeInt = 0
    """Width of the MLP's hidden layers; 0: that of h, as in the paper."""
    batchnorm: bool = True
    """After each layer, instead of a bias. Without it an update in micro-batches can equal the whole one."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """NT-Xent, and what the paper compares it with (table 4)."""

    name: Literal["nt_xent", "nt_logistic", "margin_triplet"] = "nt_xent"
    """nt_logistic and margin_triplet are for studies: they hold the whole matrix of similarities."""
    temperature: PositiveFloat = 0.1
    """tau: 0.1 on ImageNet, 0.5 on CIFAR-10 in the paper. margin_triplet has none."""
    l2_normalise: bool = True
    """Compare directions (cosine). false: plain dot products (Chen et al. 2020, table 5)."""
    decoupled: bool = False
    """Of nt_xent: leave the positive out of the denominator (Yeh et al. 2022), whose pull then does not fade where
    negatives are few or easy."""
    semi_hard: bool = False
    """Of nt_logistic and margin_triplet: only the closest negative that is farther than the positive, by less than the
    margin (Schroff et al. 2015)."""
    margin: NonNegativeFloat = 0.8
    """Of margin_triplet and of semi-hard negatives, in units of similarity."""
    scale: PositiveFloat = 1.0
    """Multiplies the gradient; 2 reproduces the reference code, whose loss is a sum of two means. Reported losses are
    unscaled. LARS hides the scale only on the weights that it adapts."""

    def __post_init__(self) -> None:
        if self.semi_hard and self.name == "nt_xent":
            raise ValueError("loss.semi_hard = true: for nt_logistic and margin_triplet; NT-Xent weighs all negatives")
        if self.decoupled and self.name != "nt_xent":
            raise ValueError(f"loss.decoupled = true: for nt_xent; {self.name} has no denominator")
