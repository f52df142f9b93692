"""FFCV: images in its own file, as pixels, as JPEGs that it encodes itself, or as the JPEGs that all others read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def write(files: str, output: str, mode: str) -> None:
    """Make a file of the images.

    Args:
        files: directory of JPEGs.
        output: file to make.
        mode: raw; jpg, encoded anew at its own quality of 90; same, the files' bytes as they are.
    """
    from ffcv.fields import RGBImageField, rgb_image
    from ffcv.writer import DatasetWriter

    if mode == "same":  # its field has no way to take bytes; the writer's processes are forked, and so have this too
        rgb_image.encode_jpeg = lambda image, _: np.frombuffer(image.encoded, dtype=np.uint8)
    field = RGBImageField(write_mode="raw" if mode == "raw" else "jpg", jpeg_quality=90)
    DatasetWriter(output, {"image": field}, num_workers=2).from_indexed_dataset(_Files(files))


def decoded(beton: str, batch: int) -> Iterator[Any]:
    """Shuffled, with one thread of its own beside Python's."""
    from ffcv.fields.decoders import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    loader = Loader(
        beton,
        batch_size=batch,
        num_workers=1,
        os_cache=True,
        order=OrderOption.RANDOM,
        drop_last=True,
        pipelines={"image": [SimpleRGBImageDecoder()]},
    )
    while True:
        for (pixels,) in loader:
            yield pixels


class _Encoded(np.ndarray):
    """Pixels that know the file that they are from."""

    encoded: bytes


class _Files:
    def __init__(self, directory: str) -> None:
        self._paths = sorted(Path(directory).iterdir())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[_Encoded]:
        from PIL import Image

        path = self._paths[index]
        pixels = np.asarray(Image.open(path).convert("RGB")).view(_Encoded)
        pixels.encoded = path.read_bytes()
        return (pixels,)
