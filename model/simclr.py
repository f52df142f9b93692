"""The network of SimCLR: encoder f and projection head g."""

from typing import Any

from torch import Tensor, nn

from model.config import EncoderConfig, HeadConfig
from model.encoder import build_encoder
from model.heads import build_head


class SimCLR(nn.Module):
    """h = f(x), z = g(h). The parts are `encoder` and `head`; only the encoder outlives pretraining."""

    encoder: Any  # timm's models, with num_features
    head: nn.Sequential

    def __init__(self, encoder: EncoderConfig, head: HeadConfig, image_size: int) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder, image_size)
        self.head = build_head(head, self.encoder.num_features)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Project views: (2B, 3, s, s) -> z (2B, D), which learns, and h (2B, F), detached, to look at.

        Both views go in one pass, so that batch statistics are joint.
        """
        h: Tensor = self.encoder(views)
        z: Tensor = self.head(h)
        return z, h.detach()
