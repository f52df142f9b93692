"""What is stored of an image, against what Pillow and DALI make of it."""

import io
import struct
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipelines.build.archives import tar_files
from pipelines.build.images import BadImageError, check_image
from pipelines.build.stored_image import Storage, stored_image

Pixels = npt.NDArray[np.uint8]


def smooth(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    """An image on which encoders and resizers have nothing to disagree about."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} | options if kind == "JPEG" else options))
    return buffer.getvalue()


def oriented(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(smooth(), kind, exif=exif.tobytes())


def by_pillow(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def by_dali(data: bytes) -> Pixels:
    """As decode.py decodes."""
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, exec_pipelined=False, exec_async=False)
    with pipeline:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
        pipeline.set_outputs(fn.decoders.image(encoded, device="cpu", output_type=types.RGB))
    pipeline.build()
    pipeline.feed_input("encoded", [np.frombuffer(data, dtype=np.uint8)])
    (output,) = pipeline.run()
    return np.array(output.at(0))


def assert_close(first: Pixels, second: Pixels, tolerance: float = 5.0) -> None:
    """Within what a JPEG of a few strongly coloured pixels loses; other turns are off by 40 and more."""
    assert first.shape == second.shape
    assert np.abs(first.astype(float) - second).mean() < tolerance


def cmyk() -> bytes:
    return saved(smooth().convert("CMYK"))


def ycck() -> bytes:
    """The same planes, said to be YCCK by Adobe's marker."""
    data = cmyk()
    transform = data.index(b"Adobe") + 11
    return data[:transform] + b"\x02" + data[transform + 1 :]


def cmyk_without_marker() -> bytes:
    data = cmyk()
    marker = data.index(b"\xff\xee")
    return data[:marker] + data[marker + 2 + struct.unpack(">H", data[marker + 2 : marker + 4])[0] :]


ODD: dict[str, Callable[[], bytes]] = {
    "cmyk": cmyk,
    "ycck": ycck,
    "cmyk without marker": cmyk_without_marker,
    "gray": lambda: saved(smooth().convert("L")),
    "png": lambda: saved(smooth(), "PNG"),
    "palette": lambda: saved(smooth().quantize(32), "PNG"),
    "alpha": lambda: saved(smooth().convert("RGBA"), "PNG"),
    "progressive": lambda: saved(smooth(), progressive=True),
    **{f"orientation {number}": partial(oriented, number) for number in range(1, 9)},
    **{f"png orientation {number}": partial(oriented, number, "PNG") for number in (3, 6)},
    "damaged exif": lambda: saved(smooth(), exif=b"Exif\0\0garbage!!"),
    "profile": lambda: saved(smooth(), icc_profile=b"x" * 200, comment=b"a comment"),
}


@pytest.mark.parametrize("resize", ["none", "canvas:32", "short:24"])
@pytest.mark.parametrize("odd", ODD)
def test_dali_decodes_what_is_stored_as_pillow_sees_the_original_upright(odd: str, resize: str) -> None:
    data = ODD[odd]()
    image = stored_image(data, Storage(resize=resize))
    original = by_pillow(data)
    assert (image.height, image.width) == original.shape[:2]
    height, width = Storage(resize=resize).size_after(*original.shape[:2])
    expected = Image.fromarray(original).resize((width, height), Image.Resampling.BICUBIC)
    assert_close(by_dali(image.data), np.asarray(expected))


@pytest.mark.parametrize("odd", [name for name in ODD if name != "cmyk without marker"])
def test_bytes_that_need_no_resizing_are_kept(odd: str) -> None:
    data = ODD[odd]()
    height, width = by_pillow(data).shape[:2]
    for storage in (Storage(), Storage(resize="short:64"), Storage(resize="short:40")):
        assert stored_image(data, storage).data == data
    if height == width:
        assert stored_image(data, Storage(resize=f"canvas:{height}")).data == data


def test_colours_on_which_decoders_disagree_are_stored_as_rgb() -> None:
    data = cmyk_without_marker()
    assert np.abs(by_dali(data).astype(int) - by_pillow(data)).mean() > 50
    stored = stored_image(data, Storage())
    assert stored.is_converted
    with Image.open(io.BytesIO(stored.data)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")


@given(height=st.integers(1, 2000), width=st.integers(1, 2000), side=st.integers(1, 600))
def test_short_never_enlarges_and_keeps_the_aspect_to_half_a_pixel(height: int, width: int, side: int) -> None:
    after = Storage(resize=f"short:{side}").size_after(height, width)
    assert min(after) == min(side, height, width)
    scale = min(after) / min(height, width)
    assert abs(after[0] - height * scale) <= 0.5
    assert abs(after[1] - width * scale) <= 0.5
    assert Storage(resize=f"canvas:{side}").size_after(height, width) == (side, side)


@pytest.mark.parametrize("source", ["JPEG", "PNG"])
@pytest.mark.parametrize(("chosen", "extension"), [("keep", None), ("jpeg", "jpg"), ("png", "png")])
def test_the_format_is_the_one_that_was_asked_for(source: str, chosen: str, extension: str | None) -> None:
    image = stored_image(saved(smooth(), source), Storage(resize="canvas:16", format=chosen))
    assert image.extension == (extension or {"JPEG": "jpg", "PNG": "png"}[source])
    with Image.open(io.BytesIO(image.data)) as stored:
        assert stored.format == {"jpg": "JPEG", "png": "PNG"}[image.extension]
        assert stored.size == (16, 16)


def test_quality_decides_the_size_and_chroma_is_halved() -> None:
    data = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "PNG")
    sizes = [len(stored_image(data, Storage(format="jpeg", quality=quality)).data) for quality in (10, 50, 95, 100)]
    assert sizes == sorted(set(sizes))
    with Image.open(io.BytesIO(stored_image(data, Storage(format="jpeg")).data)) as image:
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_nothing_but_pixels_is_written_again(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    data = saved(smooth(), exif=exif.tobytes(), icc_profile=b"x" * 200, comment=b"a comment", dpi=(72, 72))
    with Image.open(io.BytesIO(stored_image(data, Storage(format=kind)).data)) as image:
        assert not set(image.info) - {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert image.size == (40, 60)


def test_a_resized_image_is_free_of_aliases() -> None:
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    image = stored_image(saved(Image.fromarray(stripes), "PNG"), Storage(resize="canvas:32"))
    assert by_pillow(image.data)[:, 2:-2].std() < 2


def test_statistics_are_of_the_stored_pixels() -> None:
    image = stored_image(saved(smooth()), Storage(resize="canvas:16", quality=20))
    counts = [np.bincount(by_pillow(image.data)[:, :, channel].ravel(), minlength=256) for channel in range(3)]
    assert np.array_equal(image.histogram, counts)


@pytest.mark.parametrize("resize", ["none", "canvas:8", "short:8"])
def test_a_truncated_image_is_refused_however_it_is_stored(resize: str) -> None:
    with pytest.raises(BadImageError, match="truncated"):
        stored_image(saved(smooth())[:-200], Storage(resize=resize))


def test_every_image_of_the_small_imagenet_decodes_to_the_same_in_dali_and_pillow(imagenet_mini: Path) -> None:
    path = imagenet_mini / "ILSVRC2012_img_val.tar"
    data = path.read_bytes()
    files = list(tar_files(path, path))
    with tarfile.open(path) as archive:
        assert len(archive.getnames()) == len(files)
    for file in files[::5]:
        image = data[file.offset : file.offset + file.size]
        assert_close(by_dali(image), by_pillow(image), tolerance=0.5)
        assert check_image(image).height == by_pillow(image).shape[0]
