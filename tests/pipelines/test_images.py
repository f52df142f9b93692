"""The check that every image passes before it is stored."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image
from raw_images import encoded

from pipelines.build.images import BadImageError, channel_statistics, check_image, encode_png


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize(("orientation", "transposed"), [(None, False), (1, False), (3, False), (5, True), (8, True)])
def test_height_and_width_are_those_of_the_upright_image(kind: str, orientation: int | None, transposed: bool) -> None:
    image = check_image(encoded(1, kind, height=6, width=9, orientation=orientation))
    assert (image.height, image.width) == ((9, 6) if transposed else (6, 9))
    assert image.extension == {"jpeg": "jpg", "png": "png"}[kind]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_of_png_passes(mode: str) -> None:
    image = Image.fromarray(np.full((3, 5), 200 * 257, np.uint16)) if mode == "I;16" else Image.new(mode, (5, 3))
    assert check_image(saved(image, "PNG")).histogram.sum() == 3 * 5 * 3


def test_a_palette_with_transparency_passes() -> None:
    image = Image.new("P", (4, 4))
    image.putpalette([10, 20, 30])
    checked = check_image(saved(image, "PNG", transparency=b"\x80"))
    assert checked.histogram[[0, 1, 2], [10, 20, 30]].tolist() == [16, 16, 16]


def test_sixteen_bit_gray_counts_by_its_upper_byte() -> None:
    checked = check_image(saved(Image.fromarray(np.full((2, 2), 0x1234, np.uint16)), "PNG"))
    assert checked.histogram[:, 0x12].tolist() == [4, 4, 4]


def test_a_cmyk_jpeg_passes() -> None:
    assert check_image(saved(Image.new("CMYK", (8, 8)), "JPEG")).extension == "jpg"


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_truncated_image_is_bad_wherever_it_is_cut(kind: str) -> None:
    data = encoded(2, kind, height=40, width=40)
    for length in range(1, len(data) - 20, len(data) // 20):
        with pytest.raises(BadImageError):
            check_image(data[:length])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "neither JPEG nor PNG"),
        (saved(Image.new("RGB", (4, 4)), "GIF"), "neither JPEG nor PNG"),
    ],
)
def test_the_reason_names_what_it_is_not(data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=f"^{reason}$"):
        check_image(data)


@pytest.mark.parametrize("side", [10_001, 30_000])
def test_a_huge_image_is_refused_by_its_header(side: int) -> None:
    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + len(header).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    idat = b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
    with pytest.raises(BadImageError, match="pixels"):
        check_image(data + idat)


def with_exif(exif: bytes, height: int = 20, width: int = 30) -> bytes:
    pixels = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    return saved(Image.fromarray(pixels).convert("RGB"), "JPEG", exif=exif)


def damaged_exif() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    good = exif.tobytes()
    return {"cut": good[:-8], "cut early": good[:16], "garbage": b"Exif\0\0garbage!!", "empty": b"Exif\0\0"}


@pytest.mark.parametrize("damage", damaged_exif())
def test_damaged_exif_is_passed_over(damage: str) -> None:
    image = check_image(with_exif(damaged_exif()[damage]))
    assert (image.height, image.width) == (20, 30)


def test_statistics_are_those_of_all_pixels() -> None:
    images = [np.random.default_rng(seed).integers(0, 256, (5 + seed, 7, 3), dtype=np.uint8) for seed in range(3)]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    histogram = np.sum([check_image(encode_png(image)).histogram for image in images], axis=0)
    mean, std = channel_statistics(histogram)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-12)
