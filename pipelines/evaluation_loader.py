"""Every sample of a split once, in stored order: what evaluation reads."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.canvases import CanvasReader, LoaderWork
from pipelines.config import DataConfig
from pipelines.encoded import DamagedSampleError
from pipelines.errors import DataError
from pipelines.loader import enter_device
from pipelines.manifest import SplitIndex


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """One batch of evaluation, in the order of the split."""

    canvas: Tensor
    """(B, 3, S, S) uint8 on the device."""
    height: npt.NDArray[np.int64]
    """(B,) of the original images."""
    width: npt.NDArray[np.int64]
    label: Tensor
    """(B,) int64 on the host."""


def evaluation_batches(
    split: SplitIndex, data: DataConfig, batch: int, device: torch.device
) -> Generator[LabelledImages, None, None]:
    """Yield every sample of a split once, in stored order, the last batch being smaller.

    Raises:
        DataError: a sample is damaged; a number about part of a split would not be comparable.
    """
    enter_device(device)
    reader = CanvasReader(split, data, batch=batch, device=device)

    def refuse(_: int, error: DamagedSampleError) -> int:
        raise DataError(f"{reader.store.describe(error.sample_id)}: {error.reason}; build the data set again")

    with closing(reader):
        for first in range(0, len(split), batch):
            ids = np.arange(first, min(first + batch, len(split)))
            records = split.samples[ids]
            yield LabelledImages(
                canvas=reader.read(ids, refuse, LoaderWork()),
                height=records["height"].astype(np.int64),
                width=records["width"].astype(np.int64),
                label=torch.from_numpy(records["label"].astype(np.int64)),
            )
