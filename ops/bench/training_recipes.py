"""What is peculiar to each peer: transform, head, loss and LARS.

Written after lightly's benchmark, solo-learn's published configuration for CIFAR-10 (the package on PyPI cannot be
installed beside a recent torch), stable-pretraining's SimCLR, and torchvision's documentation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn

from pipelines.config import ViewsConfig
from train.config import PretrainConfig

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, by which all of them normalise."""
Views = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What differs between peers."""

    transform: Callable[[Any], Any]
    """A Pillow image to two views."""
    views: Callable[[Any], Views]
    """Of what the DataLoader makes of a batch of those."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """Of both views, (B, 3, s, s), through encoder and head."""
    learns: nn.Module
    """Whose parameters are learnt."""
    optimizer: torch.optim.Optimizer
    peak_lr: float


def recipe_of(peer: str, config: PretrainConfig, encoder: Any) -> Recipe:
    """By the peer's name; encoder, batch, temperature, rate and decay are the run's, unless the recipe has its own."""
    recipes = {
        "lightly": lightly,
        "torchvision": torchvision,
        "solo_learn": solo_learn,
        "stable_pretraining": stable_pretraining,
    }
    return recipes[peer](config, encoder)


def lightly(config: PretrainConfig, encoder: Any) -> Recipe:
    """Its transform, projection head, NTXentLoss and LARS; both views in one pass, as in its benchmark."""
    transforms: Any = import_module("lightly.transforms")
    head = import_module("lightly.models.modules").SimCLRProjectionHead(
        encoder.num_features, encoder.num_features, config.head.dim
    )
    criterion = import_module("lightly.loss").NTXentLoss(temperature=config.loss.temperature)
    model = nn.Sequential(encoder, head)

    def loss(first: Tensor, second: Tensor) -> Tensor:
        result: Tensor = criterion(*model(torch.cat([first, second])).chunk(2))
        return result

    peak = config.optimizer.peak_lr(config.global_batch)
    lars = import_module("lightly.utils.lars").LARS
    return Recipe(
        transform=transforms.SimCLRTransform(
            input_size=config.views.size,
            cj_strength=config.views.jitter_strength,
            min_scale=config.views.crop_area_min,
            gaussian_blur=config.views.blur_probability,
        ),
        views=tuple,
        loss=loss,
        learns=model,
        optimizer=lars(_groups(model, config.optimizer.weight_decay), lr=peak, momentum=config.optimizer.momentum),
        peak_lr=peak,
    )


def torchvision(config: PretrainConfig, encoder: Any) -> Recipe:
    """A plain loop: torchvision's transforms v2 on tensors, the loss as most code has it, timm's LARS."""
    from torchvision.transforms import v2

    views = config.views
    blur = [v2.RandomApply([v2.GaussianBlur(views.size // 20 * 2 + 1, (0.1, 2.0))], views.blur_probability)]
    one_view = v2.Compose(
        [
            v2.RandomResizedCrop(views.size, scale=(views.crop_area_min, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(**_jitter(views))], 0.8),
            v2.RandomGrayscale(0.2),
            *(blur if views.blur_probability else []),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def transform(image: Any) -> Views:
        pixels = v2.functional.pil_to_tensor(image)
        return one_view(pixels), one_view(pixels)

    features = encoder.num_features
    head = nn.Sequential(
        nn.Linear(features, features, bias=False),
        nn.BatchNorm1d(features),
        nn.ReLU(inplace=True),
        nn.Linear(features, config.head.dim, bias=False),
        nn.BatchNorm1d(config.head.dim),
    )
    model = nn.Sequential(encoder, head)
    peak = config.optimizer.peak_lr(config.global_batch)
    lars = import_module("timm.optim").Lars
    return Recipe(
        transform=transform,
        views=tuple,
        loss=lambda first, second: _nt_xent(model(torch.cat([first, second])), config.loss.temperature),
        learns=model,
        optimizer=lars(_groups(model, config.optimizer.weight_decay), lr=peak, momentum=config.optimizer.momentum),
        peak_lr=peak,
    )


def solo_learn(config: PretrainConfig, encoder: Any) -> Recipe:
    """Its configuration for CIFAR-10, at our temperature, and with blur where the run has it.

    Bicubic crops of a fifth of the image and more, strong jitter, a hidden layer of 2,048, each view in a pass of its
    own, LARS with a trust of 0.02, clipped, a rate of 0.4 at batch 256, and a decay of 1e-5.
    """
    from torchvision import transforms as v1

    blur_probability = config.views.blur_probability
    blur = [v1.RandomApply([v1.Lambda(_blurred)], blur_probability)] if blur_probability else []
    transform = v1.Compose(
        [
            v1.RandomResizedCrop(config.views.size, scale=(0.2, 1.0), interpolation=v1.InterpolationMode.BICUBIC),
            v1.RandomApply([v1.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
            v1.RandomGrayscale(0.2),
            *blur,
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(MEAN, STD),
        ]
    )
    head = nn.Sequential(nn.Linear(encoder.num_features, 2048), nn.ReLU(), nn.Linear(2048, 256))
    model = nn.Sequential(encoder, head)
    peak = 0.4 * config.global_batch / 256
    lars = import_module("timm.optim").Lars
    return Recipe(
        transform=lambda image: (transform(image), transform(image)),
        views=tuple,
        loss=lambda first, second: _nt_xent(torch.cat([model(first), model(second)]), config.loss.temperature),
        learns=model,
        optimizer=lars(_groups(model, 1e-5), lr=peak, momentum=0.9, trust_coeff=0.02, trust_clip=True),
        peak_lr=peak,
    )


def stable_pretraining(config: PretrainConfig, encoder: Any) -> Recipe:
    """Its SimCLR, its transforms and its LARS, without Lightning's trainer around them."""
    transforms: Any = import_module("stable_pretraining.data").transforms
    method: Any = import_module("stable_pretraining.methods.simclr").SimCLR
    lars: Any = import_module("stable_pretraining.optim").LARS
    views = config.views
    blur = [transforms.PILGaussianBlur(sigma=(0.1, 2.0), p=views.blur_probability)] if views.blur_probability else []
    one_view = transforms.Compose(
        transforms.RGB(),
        transforms.RandomResizedCrop((views.size, views.size), scale=(views.crop_area_min, 1.0)),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ColorJitter(**_jitter(views), p=0.8),
        transforms.RandomGrayscale(p=0.2),
        *blur,
        transforms.ToImage(mean=MEAN, std=STD),
    )
    both = transforms.MultiViewTransform([one_view, one_view])
    model = method(encoder, (encoder.num_features, config.head.dim), temperature=config.loss.temperature)

    def loss(first: Tensor, second: Tensor) -> Tensor:
        result: Tensor = model(first, second).loss
        return result

    peak = config.optimizer.peak_lr(config.global_batch)
    return Recipe(
        transform=lambda image: both({"image": image}),
        views=lambda batch: (batch["views"][0]["image"], batch["views"][1]["image"]),
        loss=loss,
        learns=model,
        optimizer=lars(
            _groups(model, config.optimizer.weight_decay),
            lr=peak,
            momentum=config.optimizer.momentum,
            exclude_bias_n_norm=True,
        ),
        peak_lr=peak,
    )


def _nt_xent(z: Tensor, temperature: float) -> Tensor:
    """The whole matrix with its diagonal masked; rows i and i + B are views of the same image."""
    unit = F.normalize(z.float(), dim=1)
    similarity = unit @ unit.T / temperature
    similarity.fill_diagonal_(-math.inf)
    return F.cross_entropy(similarity, torch.arange(len(z), device=z.device).roll(len(z) // 2))


def _blurred(image: Any) -> Any:
    """A Pillow image, by a Gaussian of 0.1 to 2 pixels."""
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(0.1, 2.0))))


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights, and biases and norms, which have no decay; lightly's and timm's LARS then do not adapt them either."""
    parameters = list(module.parameters())
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim == 1], "weight_decay": 0.0},
    ]


def _jitter(views: ViewsConfig) -> dict[str, float]:
    strength = views.jitter_strength
    return {
        "brightness": 0.8 * strength,
        "contrast": 0.8 * strength,
        "saturation": 0.8 * strength,
        "hue": 0.2 * strength,
    }
