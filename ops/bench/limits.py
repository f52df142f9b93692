"""What no loader can beat: decoding or copying alone, of what lies in memory already."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor


def decoding(files: str, batch: int, canvas: int) -> Iterator[npt.NDArray[np.uint8]]:
    """libjpeg-turbo in a loop, with its default (accurate) transform and upsampling, into place in the batch."""
    import simplejpeg

    images = [path.read_bytes() for path in sorted(Path(files).iterdir())]
    while True:
        for first in range(0, len(images) - batch + 1, batch):
            pixels = np.empty((batch, canvas, canvas, 3), dtype=np.uint8)
            for place in range(batch):
                simplejpeg.decode_jpeg(images[first + place], "RGB", buffer=pixels[place])
            yield pixels


def gathering(images: int, batch: int, canvas: int) -> Iterator["Tensor"]:
    """Torch's index_select of random rows."""
    import torch

    torch.set_num_threads(1)
    pixels = torch.full((images, canvas, canvas, 3), 127, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(images, generator=generator)
        for first in range(0, images - batch + 1, batch):
            yield torch.index_select(pixels, 0, order[first : first + batch])
