"""Every sample of a split, or of a part of it, once and in stored order: what evaluation reads."""

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
    split: SplitIndex, data: DataConfig, batch: int, device: torch.device, first: int = 0, last: int | None = None
) -> Generator[LabelledImages, None, None]:
    """Yield every sample of a split once, in stored order, the last batch being smaller.

    Args:
        split: what is read.
        data: how it is read.
        batch: images at a time.
        device: where canvases are wanted.
        first: the sample to begin with.
        last: the sample before which to end; None reads to the end.

    Raises:
        DataError: a sample is damaged; a number about part of a split would not be comparable.
    """
    enter_device(device)
    reader = CanvasReader(split, data, batch=batch, device=device)

    def refuse(_: int, error: DamagedSampleError) -> int:
        raise DataError(f"{reader.store.describe(error.sample_id)}: {error.reason}; build the data set again")

    with closing(reader):
        end = len(split) if last is None else last
        for start in range(first, end, batch):
            ids = np.arange(start, min(start + batch, end))
            records = split.samples[ids]
            yield LabelledImages(
                canvas=reader.read(ids, refuse, LoaderWork()),
                height=records["height"].astype(np.int64),
                width=records["width"].astype(np.int64),
                label=torch.from_numpy(records["label"].astype(np.int64)),
            )
