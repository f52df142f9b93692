"""A classifier that learns from labels: encoder, linear layer, and one update of either or both.

one view of each image -> encoder (bf16 autocast) -> h -> linear (float32) -> cross-entropy -> SGD or LARS
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from model.collectives import rank
from model.description import EncoderDescription
from model.encoder import is_stochastic
from model.precision import full_float32
from pipelines.augment import TwoViews
from pipelines.config import ViewsConfig
from pipelines.hashing import hash64
from pipelines.loader import Batch, claim
from train.lars import LARS
from train.schedule import learning_rate

_FORWARD = 301  # first word of the hash, unlike those of pipelines/


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that shapes a classifier, but its data and where it starts from."""

    steps: int
    """Updates."""
    batch: int
    """Images per update over all ranks."""
    peak_lr: float
    """Learning rate after warm-up; from there half a cosine to 0."""
    warmup_steps: int = 0
    optimizer: Literal["sgd", "lars"] = "sgd"
    """sgd: with Nesterov momentum. lars: as in pretraining. Momentum is 0.9."""
    weight_decay: float = 0.0
    """L2 strength; biases and norms are exempt."""
    frozen: bool = False
    """Only the linear layer learns; BatchNorm uses the statistics of pretraining."""
    batchnorm_momentum: float | None = None
    """Share of a batch in the running statistics; None leaves the network's own, 0.1."""
    views: ViewsConfig
    """Of which the first view of each image is learnt from."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Of the encoder's forward and backward."""
    seed: int
    """Of order, views and dropout, in [0, 2^64)."""

    @property
    def layout(self) -> torch.memory_format:
        """Of the encoder; in channels_last, float32 BatchNorm on CPUs is less exact."""
        return torch.channels_last if self.precision == "bf16" else torch.contiguous_format

    def learning_rate(self, step: int) -> float:
        """Of the update from batch `step`, from 0."""
        return learning_rate(step, peak=self.peak_lr, warmup_steps=self.warmup_steps, total_steps=self.steps)


class Classifier(nn.Module):
    """Logits of views: a linear layer on h of an encoder.

    The layer starts at zero, as in the reference code, so that it draws no random number and the first update is its
    alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Any, features: int, classes: int, description: EncoderDescription, recipe: Recipe):
        """Take an encoder over.

        Args:
            encoder: (B, 3, s, s) -> (B, features); changed in place.
            features: length of h.
            classes: their number.
            description: says how the encoder's input is made.
            recipe: whether it is frozen, and its precision.
        """
        super().__init__()
        self.encoder, self._frozen, self._precision = encoder, recipe.frozen, recipe.precision
        self.linear = nn.Linear(features, classes)
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("mean", torch.tensor(description.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(description.std).view(1, 3, 1, 1), persistent=False)
        if recipe.frozen:
            encoder.requires_grad_(False)
        if recipe.batchnorm_momentum is not None:
            for module in encoder.modules():
                if isinstance(module, _BatchNorm):
                    module.momentum = recipe.batchnorm_momentum

    def forward(self, views: Tensor) -> Tensor:
        """(B, 3, s, s) in [0, 1] -> (B, classes) float32."""
        device = views.device
        learns = torch.is_grad_enabled() and not self._frozen
        with torch.set_grad_enabled(learns), torch.autocast(device.type, torch.bfloat16, self._precision == "bf16"):
            h = self.encoder((views - self.mean) / self.std)
        with full_float32(device):
            logits: Tensor = self.linear(h.to(self.linear.weight.dtype))
        return logits

    def train(self, mode: bool = True) -> "Classifier":
        """As the parent; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self._frozen:
            self.encoder.eval()
        return self


@dataclass(kw_only=True)
class Learner:
    """The state of learning on one rank."""

    recipe: Recipe
    classifier: Classifier
    """The bare one, whose parameters the optimizer has."""
    model: nn.Module
    """The same, wrapped so that a backward averages gradients over ranks."""
    optimizer: Optimizer = field(init=False)
    views: TwoViews = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = build_optimizer(self.recipe, self.classifier)
        self.views = TwoViews(self.recipe.views, layout=self.recipe.layout)
        self._draws_in_forward = is_stochastic(self.classifier.encoder)

    def train_step(self, batch: Batch) -> Tensor:
        """One update from this rank's part of the global batch.

        Args:
            batch: with one view of each image.

        Returns:
            This rank's mean cross-entropy in nats, before the update; stays on the device.
        """
        if self._draws_in_forward:  # a function of step and rank, so that a resumed run draws the same
            torch.manual_seed(int(hash64(_FORWARD, self.recipe.seed, batch.step, rank())))
        claim(batch.plan.packed)
        views = self.views(claim(batch.canvas), batch.plan)  # (B, 3, s, s)
        logits = self.model(views)
        loss = F.cross_entropy(logits, batch.label.to(logits.device, non_blocking=True))
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate(batch.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def build_optimizer(recipe: Recipe, classifier: Classifier) -> Optimizer:
    """SGD or LARS with rate 0; each update writes its own.

    Weights of two and more dimensions decay; LARS adapts those of the encoder and leaves the linear layer, as the
    reference code does.
    """
    trained = [(name, parameter) for name, parameter in classifier.named_parameters() if parameter.requires_grad]
    plain = [parameter for name, parameter in trained if _is_plain(name, parameter, recipe)]
    others = [parameter for name, parameter in trained if not _is_plain(name, parameter, recipe)]
    groups: list[dict[str, Any]] = [
        {"params": others, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "lars":
        groups[1]["adapt"] = False
        return LARS(groups, lr=0.0)
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)


def _is_plain(name: str, parameter: Tensor, recipe: Recipe) -> bool:
    """Whether a parameter neither decays nor is adapted."""
    return parameter.ndim <= 1 or (recipe.optimizer == "lars" and name.startswith("linear."))
