"""What is stored of an image: its own bytes, or the image resized or encoded anew."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.build.images import DecodedImage, check_image, decode_image

KEEP_QUALITY = 95
"""Of JPEGs that are encoded, unless another is asked for: close to the pixels that came in, at their size."""

REDUCING_GAP = 3.0
"""Pillow may first average whole blocks as long as three times the target remains: fast, and no visible difference."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How images are to be stored."""

    resize: str = "none"
    """none, `short:S` or `canvas:S`."""
    format: str = "keep"
    """keep: bytes that need no resizing stay as they are, and others keep their format; jpeg and png encode anew."""
    quality: int = KEEP_QUALITY
    """Of JPEGs that are encoded; chroma is stored at half resolution (4:2:0)."""

    def size_after(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what is stored, from those of the upright original."""
        kind, _, side = self.resize.partition(":")
        if kind == "canvas":
            return int(side), int(side)
        short = min(height, width)
        if kind == "none" or short <= int(side):
            return height, width
        return (height * int(side) + short // 2) // short, (width * int(side) + short // 2) // short


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredImage:
    """An image ready to be written."""

    data: bytes
    extension: str
    """`jpg` or `png`."""
    height: int
    """Of the upright original."""
    width: int
    histogram: npt.NDArray[np.int64]
    """(3, 256) pixel counts, by channel (RGB) and value, of what is stored."""
    is_converted: bool
    """Whether it was CMYK on which decoders disagree."""


def stored_image(data: bytes, storage: Storage) -> StoredImage:
    """Decode an image to its last pixel and make of it what is stored.

    Resizing is bicubic and anti-aliased; colour profiles and EXIF are not written again, EXIF's orientation is applied.
    CMYK without Adobe's marker is stored as RGB, because decoders disagree on it.

    Raises:
        BadImageError: see `decode_image`.
    """
    image = decode_image(data)
    height, width = image.size
    size = storage.size_after(height, width)
    if storage.format == "keep" and size == (height, width) and not image.is_ambiguous:
        checked = image.checked()
    else:
        data = _encoded(image, size, storage)
        checked = check_image(data)
    return StoredImage(
        data=data,
        extension=checked.extension,
        height=height,
        width=width,
        histogram=checked.histogram,
        is_converted=image.is_ambiguous,
    )


def _encoded(image: DecodedImage, size: tuple[int, int], storage: Storage) -> bytes:
    pixels = image.upright
    if size != image.size:
        pixels = pixels.resize((size[1], size[0]), Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP)
    pixels.info = {}  # else Pillow would write comments and profiles again
    buffer = io.BytesIO()
    if storage.format == "png" or (storage.format == "keep" and image.format == "PNG"):
        pixels.save(buffer, "PNG")
    else:
        pixels.save(buffer, "JPEG", quality=storage.quality, subsampling="4:2:0")
    return buffer.getvalue()
