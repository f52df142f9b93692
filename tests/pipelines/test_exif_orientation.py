"""EXIF's orientation, against DALI."""

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.build.exif_orientation import exif_orientation

HEIGHT, WIDTH = 8, 12


def block(orientation: int | None, order: str = "big") -> bytes:
    exif = Image.Exif()
    exif.endian = {"big": ">", "little": "<"}[order]
    exif[0x010F], exif[0x011A] = "a maker", 72.0
    if orientation is not None:
        exif[0x0112] = orientation
    return exif.tobytes()


def turned_by_dali(blocks: list[bytes]) -> list[bool]:
    """Whether an image with such a block comes out with its sides exchanged."""
    from nvidia.dali import Pipeline, fn, types

    images = []
    for exif in blocks:
        buffer = io.BytesIO()
        Image.new("RGB", (WIDTH, HEIGHT)).save(buffer, "JPEG", exif=exif)
        images.append(np.frombuffer(buffer.getvalue(), dtype=np.uint8))
    pipeline = Pipeline(len(images), num_threads=1, device_id=None, exec_pipelined=False, exec_async=False)
    with pipeline:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
        pipeline.set_outputs(fn.decoders.image(encoded, device="cpu", output_type=types.RGB))
    pipeline.build()
    pipeline.feed_input("encoded", images)
    (output,) = pipeline.run()
    return [output.at(row).shape[:2] == (WIDTH, HEIGHT) for row in range(len(images))]


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_sound_block_says_what_was_written(orientation: int, order: str) -> None:
    assert exif_orientation(block(orientation, order)) == orientation
    assert exif_orientation(block(orientation, order).removeprefix(b"Exif\0\0")) == orientation


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", block(None), block(9), block(0)])
def test_without_an_orientation_an_image_is_upright(exif: bytes) -> None:
    assert exif_orientation(exif) == 1


@pytest.mark.parametrize("order", ["big", "little"])
def test_a_damaged_block_means_what_dali_makes_of_it(order: str) -> None:
    good = block(6, order)
    random = np.random.default_rng(0)
    blocks = [good, *(good[:length] for length in range(7, len(good)))]
    for _ in range(400):
        damaged = bytearray(good)
        for position in random.integers(6, len(good), random.integers(1, 4)):
            damaged[position] = random.choice([0, 1, 2, 7, 13, 128, 255, int(random.integers(256))])
        blocks.append(bytes(damaged))
    turned = [exif_orientation(exif) >= 5 for exif in blocks]
    assert turned == turned_by_dali(blocks)
    assert 50 < sum(turned) < len(blocks) - 50
