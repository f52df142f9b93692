"""A batch of encoded images in one buffer, laid out as the decoder likes it."""

from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt

# Images lie as rows of a matrix, zeros behind them, if that takes at most so many times their bytes, and are handed to
# the decoder as one object: an object per image would cost a tenth of decoding a small one. The zeros mean nothing: a
# decoder stops where the image does.
_PADDED_SHARE = 2


class DamagedSampleError(Exception):
    """A sample cannot be used; `reason` is one of a few words that metrics count under."""

    def __init__(self, sample_id: int, reason: str) -> None:
        super().__init__(f"sample {sample_id}: {reason}")
        self.sample_id = sample_id
        self.reason = reason


@dataclass(kw_only=True)
class EncodedBatch:
    """Encoded images and, by their places, why some cannot be used."""

    images: list[memoryview]
    """Of bytes, writable."""
    rows: npt.NDArray[np.uint8] | None
    """(B, bytes of the longest): the same images as rows of a matrix, where their sizes are alike."""
    reasons: dict[int, str] = field(default_factory=dict)
    """What stands in these places of `images` means nothing."""

    def replace(self, place: int, image: memoryview) -> None:
        """Put another image in a place."""
        self.images[place], self.rows = image, None
        self.reasons.pop(place, None)


def make_room(sizes: list[int]) -> EncodedBatch:
    """Zeros for images of these sizes in bytes."""
    longest = max(sizes)
    if longest * len(sizes) <= _PADDED_SHARE * sum(sizes):
        starts = [longest * place for place in range(len(sizes))]
        buffer = np.zeros(longest * len(sizes), dtype=np.uint8)
        rows = buffer.reshape(len(sizes), longest)
    else:
        starts, rows = [0, *accumulate(sizes)][:-1], None
        buffer = np.zeros(sum(sizes), dtype=np.uint8)
    view = buffer.data
    return EncodedBatch(
        images=[view[start : start + size] for start, size in zip(starts, sizes, strict=True)], rows=rows
    )
