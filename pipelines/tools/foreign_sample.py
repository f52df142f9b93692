"""One sample of a foreign shard: its image, its label, and what is wrong with it."""

import io
import json
import re
import warnings
from dataclasses import dataclass
from zlib import crc32

from PIL import Image, UnidentifiedImageError

from pipelines.build.exif_orientation import exif_orientation
from pipelines.build.images import (
    TRANSPOSED_ORIENTATIONS,
    BadImageError,
    CheckedImage,
    check_image,
)
from pipelines.manifest import MAX_PIXELS, UNLABELLED
from pipelines.tools.tar_samples import TarSample, kind_of
from pipelines.tools.tar_stream import TarMember

MAX_CLASSES = 1_000_000
"""Larger labels are something else: a hash, a time, a number of a sample."""
LABEL_FIELDS = ("label", "class_id", "cls")
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


class SampleFaultError(Exception):
    """A sample that must not be used; `reason` is one word, the message says more."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignSample:
    """A sample whose image is good."""

    offset: int
    size: int
    crc32: int
    label: int
    height: int
    width: int
    checked: CheckedImage | None
    """None if only the header was looked at."""


def read_sample(sample: TarSample, *, decode: bool) -> ForeignSample:
    """Look a sample over.

    Args:
        sample: as it stands in a tar file.
        decode: decode the image to its last pixel, instead of only its header.

    Raises:
        SampleFaultError: missing_image, several_images, bad_label, empty, not_an_image, too_large or damaged. A label
            that is missing is no fault of the sample as long as no other sample has one.
    """
    label = _label(sample)
    image, content = _image(sample)
    height, width, checked = check_pixels(content) if decode else (*header_size(content), None)
    return ForeignSample(
        offset=image.offset,
        size=image.size,
        crc32=crc32(content),
        label=label,
        height=height,
        width=width,
        checked=checked,
    )


def check_pixels(data: bytes) -> tuple[int, int, CheckedImage]:
    """Height and width of the upright image, and what a full decode tells.

    Raises:
        SampleFaultError: empty, not_an_image, too_large or damaged.
    """
    try:
        checked = check_image(data)
    except BadImageError as error:
        header_size(data)  # raises if that is the reason
        raise SampleFaultError("damaged", str(error)) from None
    return checked.height, checked.width, checked


def header_size(data: bytes) -> tuple[int, int]:
    """Height and width of the upright image by its header, which may lie.

    Raises:
        SampleFaultError: empty, not_an_image, too_large or damaged.
    """
    if not data:
        raise SampleFaultError("empty", "0 bytes")
    if not data.startswith(SIGNATURES):
        raise SampleFaultError("not_an_image", f"neither JPEG nor PNG: it begins with {data[:8]!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that our own limit refuses, and of what decoding finds anyway
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
                width, height = image.size
                orientation = exif_orientation(image.info.get("exif", b""))
    except Image.DecompressionBombError as error:
        raise SampleFaultError("too_large", str(error)) from None
    except UnidentifiedImageError:
        raise SampleFaultError("damaged", "its header is damaged or incomplete") from None
    except Exception as error:  # Pillow's parsers raise a dozen types on damaged files
        raise SampleFaultError("damaged", f"{type(error).__name__}: {error}") from error
    if width * height > MAX_PIXELS:
        raise SampleFaultError("too_large", f"{width}x{height} pixels; at most {MAX_PIXELS // 1_000_000} million")
    return (width, height) if orientation in TRANSPOSED_ORIENTATIONS else (height, width)


def label_texts(sample: TarSample) -> list[str]:
    """What members say of the label: the text of `cls`, or else the integer fields of `json` that may hold it."""
    for extension, member in sample.members.items():
        if kind_of(extension) == "cls":
            return [(member.content or b"").strip().decode("ascii", "backslashreplace")]
    described = description(sample)
    return [str(described[field]) for field in LABEL_FIELDS if type(described.get(field)) is int]


def as_label(text: str) -> int | None:
    """The integer that a text is, if it is one."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,20}", text) else None


def description(sample: TarSample) -> dict[str, object]:
    """Content of the `json` member; empty if there is none, or none that can be read."""
    for extension, member in sample.members.items():
        if kind_of(extension) == "json":
            try:
                content = json.loads(member.content or b"")
            except (ValueError, RecursionError):
                return {}
            return content if isinstance(content, dict) else {}
    return {}


def _image(sample: TarSample) -> tuple[TarMember, bytes]:
    images = sample.images
    if not images:
        others = ", ".join(sample.members)
        raise SampleFaultError("missing_image", f"no jpg, jpeg or png among its members: {others[:200]}")
    if len(images) > 1:
        raise SampleFaultError("several_images", f"{len(images)} images: {', '.join(images)[:200]}")
    image = sample.members[images[0]]
    if image.content is None:
        raise SampleFaultError(
            "too_large" if image.size and "at most" in image.problem else "missing_image",
            f"its {images[0]} is {image.problem}",
        )
    return image, image.content


def _label(sample: TarSample) -> int:
    texts = label_texts(sample)
    if not texts:
        return UNLABELLED
    label = as_label(texts[0])
    if label is None:
        raise SampleFaultError("bad_label", f"its label is not an integer: {texts[0]!r}"[:200])
    if not UNLABELLED <= label < MAX_CLASSES:
        raise SampleFaultError("bad_label", f"label {label} is not in 0 ... {MAX_CLASSES - 1}")
    return label
