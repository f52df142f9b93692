"""An encoder together with what it wants done to its input."""

from typing import Any

import torch
from torch import Tensor, nn

from model.description import EncoderDescription


class NormalisedEncoder(nn.Module):
    """Views in [0, 1] -> h."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Any, description: EncoderDescription) -> None:
        """Take the encoder over.

        Args:
            encoder: (B, 3, s, s) normalised -> (B, D).
            description: says by what it is normalised.
        """
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(description.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(description.std).view(1, 3, 1, 1))

    def forward(self, views: Tensor) -> Tensor:
        """(B, 3, s, s) in [0, 1] -> (B, D)."""
        h: Tensor = self.encoder((views - self.mean) / self.std)
        return h
