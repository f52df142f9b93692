"""The network of SimCLR: encoder f and projection head g."""

from typing import Any

from torch import Tensor, nn

from model.config import EncoderConfig, HeadConfig
from model.encoder import build_encoder
from model.heads import build_head


class SimCLR(nn.Module):
    """z = g(f(x)). The parts are `encoder` and `head`; only the encoder outlives pretraining."""

    encoder: Any  # timm's models, with num_features
    head: nn.Sequential

    def __init__(self, encoder: EncoderConfig, head: HeadConfig) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder)
        self.head = build_head(head, self.encoder.num_features)

    def forward(self, views: Tensor) -> Tensor:
        """Project views: (2B, 3, s, s) -> (2B, D). Both views in one pass, so that batch statistics are joint."""
        z: Tensor = self.head(self.encoder(views))
        return z
