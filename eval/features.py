"""Images -> representations: one pass over a split, with every encoder that is to be compared.

loader -> fixed central view -> h of the encoder, h of the control encoder, the pixels themselves
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from eval.errors import EvaluationError
from eval.ranks import Part, part_of, total
from model.collectives import rank
from model.export import EncoderDescription
from pipelines.augment import EvalView
from pipelines.config import DataConfig
from pipelines.evaluation_loader import evaluation_batches
from pipelines.loader import claim
from pipelines.manifest import SplitIndex
from pipelines.prefetch import Prefetch

Representation = Callable[[Tensor], Tensor]
"""(B, 3, s, s) float32 in [0, 1] -> (B, D) float32."""


@dataclass(frozen=True, kw_only=True)
class LabelledFeatures:
    """One representation of this rank's part of a split, on the host, in the split's stored order."""

    features: Tensor
    """(N, D) float32; `gather_rows` puts the parts of all ranks together."""
    labels: Tensor
    """(N,) int64 in [0, classes)."""


class FrozenEncoder(nn.Module):
    """h of an encoder in eval mode, without gradient.

    In float32: bfloat16 is 1.7 times as fast on CPUs and moves top-1 by up to 0.1 points. Contiguous: in channels_last,
    torch's CPU BatchNorm loses digits of the statistics that a control is calibrated by.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Any, description: EncoderDescription, device: torch.device) -> None:
        """Take an encoder over.

        Args:
            encoder: (B, 3, s, s) -> (B, D); moved to the device.
            description: says how its input is made.
            device: where views will come from.
        """
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(description.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(description.std).view(1, 3, 1, 1))
        self.to(device).eval().requires_grad_(False)

    def forward(self, views: Tensor) -> Tensor:
        """(B, 3, s, s) in [0, 1] -> (B, D) float32."""
        h: Tensor = self.encoder((views - self.mean) / self.std)
        return h


def extract(
    split: SplitIndex,
    data: DataConfig,
    size: int,
    representations: Mapping[str, Representation],
    *,
    batch: int,
    device: torch.device,
) -> dict[str, LabelledFeatures]:
    """Run every representation over this rank's part of a split.

    Args:
        split: labelled.
        data: canvas and read-ahead.
        size: s, side in pixels of the views.
        representations: by name; all see the same views.
        batch: images at a time.
        device: where the representations compute.

    Raises:
        DataError: a sample is damaged.
        EvaluationError: a feature is not finite.
    """
    part = part_of(len(split))
    features: dict[str, Tensor] = {}
    first = 0
    with (
        closing(fixed_views(split, data, size, batch=batch, device=device, part=part)) as batches,
        tqdm(total=len(part), desc=split.name, unit="image", disable=_no_bar(), dynamic_ncols=True) as bar,
        torch.no_grad(),  # not inference mode, whose tensors no probe could learn from
    ):
        for views in batches:
            for name, represent in representations.items():
                h = represent(views)
                if name not in features:
                    features[name] = torch.empty(len(part), h.shape[1])
                features[name][first : first + len(h)] = h
            first += len(views)
            bar.update(len(views))
    for name, h in features.items():
        if total(torch.tensor(float(not h.isfinite().all()))) > 0:
            raise EvaluationError(f"{name}: features of split {split.name} are not finite; its weights have diverged")
    labels = split_labels(split)[part.rows]
    return {name: LabelledFeatures(features=h, labels=labels) for name, h in features.items()}


def split_labels(split: SplitIndex) -> Tensor:
    """(N,) int64 labels of a whole split, in stored order."""
    return torch.from_numpy(split.samples["label"].astype("int64"))


def fixed_views(
    split: SplitIndex, data: DataConfig, size: int, *, batch: int, device: torch.device, part: Part | None = None
) -> Generator[Tensor, None, None]:
    """Yield the views of a split in stored order, decoded ahead in a thread: (B, 3, size, size) float32 in [0, 1].

    Each is the central square of the original image, see `EvalView`. Of a part of the split, if one is given.
    """
    view = EvalView(size)
    first, last = (0, len(split)) if part is None else (part.first, part.last)  # a part may be empty
    with Prefetch(evaluation_batches(split, data, batch, device, first, last), data.prefetch_batches) as ahead:
        for images in ahead:
            yield view(claim(images.canvas), images.height, images.width)


def _no_bar() -> bool | None:
    """None lets the bar be shown where there is a terminal."""
    return True if rank() else None


def share_equal(predicted: Tensor, labels: Tensor) -> float:
    """Top-1: the share of (N,) predictions that are right, in [0, 1], exact to float64."""
    return int((predicted == labels).sum()) / len(labels)
