"""Encoded images: checked by a full decode before they are stored, or encoded from arrays."""

import io
import math
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 100_000_000
"""Larger images are refused by their header: a PNG of 388 KB can decode to 2.4 GB."""

EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}  # MPO: a JPEG with further pictures behind the first
ORIENTATION_TAG = 0x0112
TRANSPOSED_ORIENTATIONS = (5, 6, 7, 8)


class BadImageError(Exception):
    """An image that must not enter a data set; the message is the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedImage:
    """What a full decode tells about an encoded image."""

    extension: str
    """`jpg` or `png`, by content."""
    height: int
    """Of the upright image: after EXIF rotation, as DALI decodes it."""
    width: int
    histogram: npt.NDArray[np.int64]
    """(3, 256) pixel counts by channel (RGB) and value."""


def check_image(data: bytes) -> CheckedImage:
    """Decode an image to its last pixel.

    Raises:
        BadImageError: it is neither JPEG nor PNG, too large, damaged, or makes the decoder warn.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit stands for it
            return _decode(data)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError("neither JPEG nor PNG" if data else "empty file") from None
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged files
        raise BadImageError(f"{type(error).__name__}: {error}") from error


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) RGB pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def channel_statistics(histogram: npt.NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, in [0, 1], exact up to the last division.

    Args:
        histogram: (3, 256) pixel counts by channel and value.
    """
    mean, std = [], []
    for counts in histogram.tolist():
        pixels = sum(counts)
        total = sum(count * value for value, count in enumerate(counts))
        squares = sum(count * value * value for value, count in enumerate(counts))
        mean.append(total / (255 * pixels))
        std.append(math.sqrt((pixels * squares - total * total) / (255 * pixels) ** 2))
    return mean, std


def _decode(data: bytes) -> CheckedImage:
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise BadImageError(f"{width}x{height} pixels; at most {MAX_PIXELS // 1_000_000} million are allowed")
        image.load()
        if _orientation(image) in TRANSPOSED_ORIENTATIONS:
            width, height = height, width
        return CheckedImage(
            extension=EXTENSIONS[str(image.format)],
            height=height,
            width=width,
            histogram=np.array(_rgb(image).histogram(), dtype=np.int64).reshape(3, 256),
        )


def _orientation(image: Image.Image) -> int | None:
    # Image.getexif() would also look into XMP, which DALI does not.
    if "exif" not in image.info:
        return None
    exif = Image.Exif()
    exif.load(image.info["exif"])
    orientation: int | None = exif.get(ORIENTATION_TAG)
    return orientation


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow would clip at 255; DALI keeps the upper byte
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P":  # straight to RGB Pillow warns if the palette has transparency
        image = image.convert("RGBA")
    return image.convert("RGB")
