"""SimCLR as the users of other libraries write it: DataLoader workers make views one by one, a loop learns from them.

Encoder, batch, temperature, rates and schedule are those of the run that they are compared with.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from model.encoder import build_encoder
from ops.bench.training import Training
from ops.bench.training_recipes import MEAN, STD, Recipe, recipe_of
from train.config import PretrainConfig, load_config
from train.schedule import learning_rate


class Images(Dataset[Any]):
    """Image files, opened by Pillow as torchvision's ImageFolder does."""

    def __init__(self, directory: str, transform: Callable[[Any], Any]) -> None:
        self._paths = sorted(str(path) for path in Path(directory).iterdir())
        self._transform = transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        with Image.open(self._paths[index]) as image:
            return self._transform(image.convert("RGB"))


def begin(peer: str, config: str, files: str, workers: int) -> Training:
    """A peer's training, ready to go.

    Args:
        peer: lightly, torchvision, solo_learn or stable_pretraining.
        config: YAML file of the run that it is compared with; its precision is obeyed, in channels_last for bf16,
            and so are tf32 and cudnn_benchmark.
        files: directory of the images.
        workers: of the DataLoader.
    """
    settings = load_config(Path(config))
    torch.manual_seed(settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() and settings.device != "cpu" else "cpu")
    torch.backends.cudnn.benchmark = settings.cudnn_benchmark
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = settings.tf32
    encoder = build_encoder(settings.encoder, settings.views.size)
    encoder.eval()  # a recipe may try it on an image of zeros, which is not to enter BatchNorm's statistics
    recipe = recipe_of(peer, settings, encoder)
    return Training(
        encoder=encoder,
        mean=MEAN,
        std=STD,
        updates=_updates(settings, recipe, files, workers, device),
    )


def _updates(config: PretrainConfig, recipe: Recipe, files: str, workers: int, device: torch.device) -> Iterator[int]:
    loader = DataLoader(
        Images(files, recipe.transform),
        batch_size=config.global_batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    layout = torch.channels_last if config.uses_channels_last else torch.contiguous_format
    recipe.learns.to(device=device, memory_format=layout).train()  # type: ignore[call-overload]  # torch's overloads
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    total = config.schedule.epochs * len(loader)
    warmup = round(config.schedule.warmup_epochs * len(loader))
    step = 0
    for _ in range(config.schedule.epochs):
        for batch in loader:
            for group in recipe.optimizer.param_groups:
                group["lr"] = learning_rate(step, peak=recipe.peak_lr, warmup_steps=warmup, total_steps=total)
            first, second = (view.to(device, non_blocking=True, memory_format=layout) for view in recipe.views(batch))
            with _autocast(config, device):
                loss = recipe.loss(first, second)
            recipe.optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(recipe.optimizer)
            scaler.update()
            step += 1
            yield len(first)


def _autocast(config: PretrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.type, types[config.precision]) if config.precision in types else nullcontext()
