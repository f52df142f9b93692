"""Encoded images: decoded to the last pixel, as DALI decodes them, or encoded from arrays."""

import io
import math
import warnings
from dataclasses import dataclass
from struct import Struct

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from pipelines.build.exif_orientation import exif_orientation
from pipelines.manifest import MAX_PIXELS

ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of some EXIF orientation upright; others are upright."""
TRANSPOSED_ORIENTATIONS = (5, 6, 7, 8)


_COUNTS = Struct("=768q")  # packs a list in a third of the time that NumPy takes to make an array of it


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


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImage:
    """An image in memory."""

    pixels: Image.Image
    """RGB, as stored: not yet turned upright."""
    format: str
    """`JPEG` or `PNG`, by content."""
    orientation: int
    """EXIF's; 1 where there is none."""
    is_ambiguous: bool
    """Whether decoders disagree on its colours."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        width, height = self.pixels.size
        return (width, height) if self.orientation in TRANSPOSED_ORIENTATIONS else (height, width)

    @property
    def upright(self) -> Image.Image:
        """The pixels as they are meant to be seen."""
        turn = UPRIGHT.get(self.orientation)
        return self.pixels if turn is None else self.pixels.transpose(turn)

    def checked(self) -> CheckedImage:
        """What there is to know."""
        height, width = self.size
        return CheckedImage(
            extension="jpg" if self.format == "JPEG" else "png",
            height=height,
            width=width,
            histogram=np.frombuffer(_COUNTS.pack(*self.pixels.histogram()), dtype=np.int64).reshape(3, 256),
        )


def check_image(data: bytes) -> CheckedImage:
    """Decode an image to its last pixel and describe it.

    Raises:
        BadImageError: it is neither JPEG nor PNG, too large, or damaged.
    """
    return decode_image(data).checked()


def decode_image(data: bytes, formats: tuple[str, ...] = ("JPEG", "PNG")) -> DecodedImage:
    """Decode an image to its last pixel.

    Damage in what surrounds the pixels (EXIF, further pictures behind the first) is passed over, as DALI does: Pillow
    warns of it, and raises where pixels are damaged.

    Args:
        data: the encoded image.
        formats: that are taken, by Pillow's names.

    Raises:
        BadImageError: it is of none of the formats, too large, or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data, formats)
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError(f"neither {' nor '.join(formats)}" if data else "empty file") from None
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


def _decode(data: bytes, formats: tuple[str, ...]) -> DecodedImage:
    with Image.open(io.BytesIO(data), formats=formats) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise BadImageError(f"{width}x{height} pixels; at most {MAX_PIXELS // 1_000_000} million are allowed")
        image.load()
        return DecodedImage(
            pixels=_rgb(image),
            format="PNG" if image.format == "PNG" else "JPEG",  # or MPO, a JPEG with further pictures behind the first
            orientation=exif_orientation(image.info.get("exif", b"")),
            # Without Adobe's marker Pillow takes CMYK as it stands, DALI as inverted.
            is_ambiguous=image.mode == "CMYK" and "adobe" not in image.info,
        )


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow would clip at 255; DALI keeps the upper byte
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P":  # straight to RGB Pillow warns if the palette has transparency
        image = image.convert("RGBA")
    return image.convert("RGB")
