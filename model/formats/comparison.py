"""An export beside the encoder that it was made of, on the same images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.description import EncoderDescription
from model.errors import ModelError
from model.normalised import NormalisedEncoder

TOLERANCE = 1e-5
_BATCHES = (3, 1)
"""Two sizes, because a graph may have kept the one that it was traced with."""
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two encoders are from each other."""

    difference: float
    """Largest of any number of h."""
    magnitude: float
    """Largest number of h, of the encoder itself."""
    images: int

    @property
    def relative(self) -> float:
        """The difference in units of the largest number of h."""
        return self.difference / self.magnitude if self.magnitude else self.difference


def refuse_not_finite(encoder: Any) -> None:
    """Check the weights.

    Raises:
        ModelError: one is not finite.
    """
    broken = [name for name, tensor in encoder.state_dict().items() if not tensor.isfinite().all()]
    if broken:
        raise ModelError(
            f"{broken[0]}{f' and {len(broken) - 1} more' if len(broken) > 1 else ''}: not finite; the run has "
            "diverged, there is nothing to export"
        )


@torch.no_grad()
def compare(encoder: Any, description: EncoderDescription, exported: Callable[[Tensor], Tensor]) -> Agreement:
    """Give both the same random images, uniform in [0, 1] and always the same.

    Args:
        encoder: in eval mode.
        description: of it.
        exported: images (B, 3, s, s) in [0, 1] -> h (B, D), as read back from the export.

    Raises:
        ModelError: they differ by more than TOLERANCE of the largest number.
    """
    ours = NormalisedEncoder(encoder, description).eval()
    side = description.image_size
    generator = torch.Generator().manual_seed(_SEED)
    difference = magnitude = 0.0
    for batch in _BATCHES:
        images = torch.rand(batch, 3, side, side, generator=generator)
        h, theirs = ours(images), exported(images)
        if h.shape != theirs.shape:
            raise ModelError(f"the export gives {tuple(theirs.shape)} where the encoder gives {tuple(h.shape)}")
        difference = max(difference, float((h - theirs).abs().max()))
        magnitude = max(magnitude, float(h.abs().max()))
    agreement = Agreement(difference=difference, magnitude=magnitude, images=sum(_BATCHES))
    if not agreement.relative <= TOLERANCE:  # nor what is not a number
        raise ModelError(
            f"the export differs from the encoder by {difference:.2g}, where h reaches {magnitude:.2g}; {TOLERANCE:g} "
            "of that is allowed"
        )
    return agreement
