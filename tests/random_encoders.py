"""Encoders of which every tensor is random, so that no branch of them is silent, as files."""

from pathlib import Path
from typing import Any

import torch

from model.config import EncoderConfig
from model.description import EncoderDescription
from model.encoder import build_encoder
from model.encoder_file import save_encoder

MEAN, STD = (0.25, 0.5, 0.75), (0.5, 0.25, 0.2)


def save_random_encoder(directory: Path, config: EncoderConfig, image_size: int = 32) -> Any:
    """Write an encoder that wants its input normalised by MEAN and STD.

    Args:
        directory: made; what it lies in must be there.
        config: of the encoder.
        image_size: s.

    Returns:
        Its module, in eval mode.
    """
    generator = torch.Generator().manual_seed(0)
    encoder = build_encoder(config, image_size).eval()
    with torch.no_grad():
        for name, tensor in encoder.state_dict().items():
            if name.endswith("running_var") or (name.endswith("weight") and tensor.dim() == 1):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.dim() == 1 or not tensor.is_floating_point():
                tensor.copy_(torch.randint(-4, 5, tensor.shape, generator=generator) / 16)
            else:
                tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
    description = EncoderDescription(
        encoder=config,
        image_size=image_size,
        mean=MEAN,
        std=STD,
        data_name="tiny",
        data_fingerprint="f" * 64,
        config_sha256="c" * 64,
        step=7,
        images_seen=3584,
    )
    save_encoder(directory, encoder.state_dict(), description)
    return encoder
