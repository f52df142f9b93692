"""The webdataset library with Pillow."""

import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


def decoded(shards: list[str], batch: int) -> Iterator[npt.NDArray[np.uint8]]:
    """In the order of the shards; only the image of each sample is decoded."""
    import webdataset
    from PIL import Image

    def decode(data: bytes) -> npt.NDArray[np.uint8]:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    samples = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    batches = samples.to_tuple("jpg").map_tuple(decode).batched(batch, partial=False)
    while True:
        for (pixels,) in batches:
            yield pixels
