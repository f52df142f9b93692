"""The references of the views agree with TensorFlow and torch, and our sampler of crops with TensorFlow's.

tests/golden/paper_views.json holds what TensorFlow computed, in an environment of its own, with the calls of the SimCLR
authors' tf2/data_util.py. (Their older data_util.py resizes otherwise: a = -3/4, and no half-pixel centres.)
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import kornia.filters
import numpy as np
import numpy.typing as npt
import pytest
import reference_views as reference
import torch
from torchvision.transforms.v2 import functional as torchvision

from pipelines.config import ViewsConfig
from pipelines.draws import draw_views

Floats = npt.NDArray[np.float64]

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "paper_views.json").read_text())
IMAGES = np.array(GOLDEN["images"], dtype=np.float32).astype(np.float64)  # what TensorFlow was given
PAPER: dict[str, Callable[[Floats, float], Floats]] = {
    "brightness": reference.paper_brightness,
    "contrast": reference.paper_contrast,
    "saturation": reference.paper_saturation,
    "hue": reference.paper_hue,
}
SIZES = pytest.mark.parametrize(
    "size", GOLDEN["sampler"]["sizes"], ids=lambda size: f"{size['height']}x{size['width']}"
)
MEASURES = ("area", "aspect", "top", "left", "box_height", "box_width")
KS_P001 = math.sqrt(math.log(2 / 0.001) / 2)
"""Kolmogorov-Smirnov distance at p = 0.001 is this times sqrt(1 / n + 1 / m), for large samples of n and m."""


def close(actual: Floats, golden: Any) -> None:
    np.testing.assert_allclose(actual, np.array(golden, dtype=np.float64), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", PAPER)
def test_each_paper_colour_is_tensorflows(name: str) -> None:
    for case in GOLDEN[name]:
        close(PAPER[name](IMAGES[case["image"]], case["factor"]), case["output"])


def test_paper_colours_in_any_order_with_a_clip_after_each_are_tensorflows() -> None:
    for case in GOLDEN["sequence"]:
        x = IMAGES[case["image"]]
        for name, factor in zip(case["order"], case["factors"], strict=True):
            x = PAPER[name](x, factor)
        close(x, case["output"])


def test_paper_grayscale_is_tensorflows_and_so_white_is_a_little_gray() -> None:
    for case in GOLDEN["grayscale"]:
        gray = reference.grayscale(IMAGES[case["image"]], reference.PAPER_LUMINANCE)
        close(gray, np.repeat(case["output"], 3, axis=2))
    white = reference.grayscale(np.ones((1, 1, 3)), reference.PAPER_LUMINANCE)
    assert white.max() == pytest.approx(0.9999)


def test_blur_with_a_zero_border_is_tensorflows() -> None:
    image = np.array(GOLDEN["blur"]["image"])[..., None]
    for case in GOLDEN["blur"]["cases"]:
        blurred = reference.gaussian_blur(image, case["sigma"], case["kernel_size"], "zero")
        close(blurred[..., 0], case["output"])


def test_enlarging_is_tensorflows() -> None:
    # To 16 pixels, because TensorFlow has bicubic weights in steps of 1/1024 of a pixel: at 16 these are exact.
    image = np.array(GOLDEN["crop_resize"]["image"])[..., None] / 255
    for case in GOLDEN["crop_resize"]["cases"]:
        top, left, height, width = case["box"]
        crop = image[top : top + height, left : left + width]
        enlarged = reference.resize(crop, GOLDEN["crop_resize"]["size"], case["method"], antialias=False)
        close(enlarged[..., 0], case["output"])


def tensor(image: Floats) -> torch.Tensor:
    return torch.from_numpy(image).movedim(2, 0)[None]


def array(images: torch.Tensor) -> Floats:
    return np.asarray(images[0].movedim(0, 2).numpy(), dtype=np.float64)


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(40, 23), (9, 31), (5, 4)])
def test_anti_aliased_resizing_is_torchs(kernel: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).uniform(size=(*shape, 3))
    theirs = torch.nn.functional.interpolate(tensor(image), (16, 16), mode=kernel, antialias=True)
    ours = reference.resize(image, 16, "bicubic" if kernel == "bicubic" else "bilinear", antialias=True)
    np.testing.assert_allclose(ours, array(theirs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [0.2, 0.9, 1.8])
def test_torchvision_colours_are_torchvisions(factor: float) -> None:
    for image in IMAGES:
        x = tensor(image)
        for ours, theirs in (
            (reference.torchvision_brightness, torchvision.adjust_brightness),
            (reference.torchvision_contrast, torchvision.adjust_contrast),
            (reference.torchvision_saturation, torchvision.adjust_saturation),
        ):
            # On tensors torchvision's red weighs 0.2989; on PIL images, as here, 0.299.
            np.testing.assert_allclose(ours(image, factor), array(theirs(x, factor)), rtol=0, atol=1.1e-4)
        shifted = array(torchvision.adjust_hue(x, factor / 4))
        np.testing.assert_allclose(reference.paper_hue(image, factor / 4), shifted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kernel", [3, 9])
def test_blur_with_a_reflected_border_is_torchvisions(kernel: int) -> None:
    image = np.random.default_rng(1).uniform(size=(11, 14, 3))
    theirs = torchvision.gaussian_blur(tensor(image), [kernel, kernel], [1.3, 1.3])
    np.testing.assert_allclose(
        reference.gaussian_blur(image, 1.3, kernel, "reflect"), array(theirs), rtol=0, atol=1e-12
    )


def test_sobel_is_kornias() -> None:
    image = np.random.default_rng(2).uniform(size=(7, 9, 3))
    np.testing.assert_allclose(
        reference.sobel_magnitude(image), array(kornia.filters.sobel(tensor(image))), rtol=0, atol=1e-12
    )


def measures(boxes: Floats, height: int, width: int) -> dict[str, Floats]:
    """Of (N, 4) boxes in pixels; rounded as the golden quantiles are, so that ties stay ties."""
    top, left, box_height, box_width = boxes.T
    share, aspect = np.round(box_height * box_width / (height * width), 6), np.round(box_width / box_height, 6)
    return dict(zip(MEASURES, (share, aspect, top, left, box_height, box_width), strict=True))


def ks_distance(values: Floats, quantiles: list[float]) -> float:
    """How far the distribution function of values misses a level at that level's golden quantile, at most.

    At most the Kolmogorov-Smirnov distance from the golden sample, and less by at most the spacing of the levels.
    """
    values = np.sort(values)
    levels = np.linspace(0, 1, len(quantiles))
    below = np.searchsorted(values, quantiles, side="left") / len(values)
    up_to = np.searchsorted(values, quantiles, side="right") / len(values)
    return float(np.maximum(levels - up_to, below - levels).max())


def assert_distributed_as_golden(boxes: Floats, size: dict[str, Any]) -> None:
    height, width = size["height"], size["width"]
    draws, golden_draws = len(boxes), GOLDEN["sampler"]["draws"]
    measured = measures(boxes, height, width)
    critical = KS_P001 * math.sqrt(1 / draws + 1 / golden_draws)
    distances = {name: ks_distance(measured[name], size["quantiles"][name]) for name in MEASURES}
    assert max(distances.values()) < critical, distances
    assert measured["area"].mean() == pytest.approx(size["mean_area"], abs=0.005)
    whole, expected = (measured["area"] == 1).sum(), size["whole_images"] * draws / golden_draws
    assert abs(whole - expected) <= 4 * math.sqrt(max(expected, 1))


def our_boxes(size: dict[str, Any], sampler: Literal["paper", "torchvision"]) -> Floats:
    """(20000, 4) boxes in whole pixels."""
    height, width = size["height"], size["width"]
    area_min, area_max = size["area_range"]
    config = ViewsConfig(reference=sampler, crop_area_min=area_min, crop_area_max=area_max)
    ids = np.arange(10_000)
    draws = draw_views(config, ids, np.full_like(ids, height), np.full_like(ids, width), seed=5, epoch=0)
    pixels = draws.box * [height, width, height, width]
    whole: Floats = np.rint(pixels)
    np.testing.assert_allclose(pixels, whole, rtol=0, atol=1e-9)
    return whole


@SIZES
def test_the_reference_crop_is_distributed_as_tensorflows(size: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    boxes = [reference.paper_crop(rng, size["height"], size["width"], *size["area_range"]) for _ in range(10_000)]
    assert_distributed_as_golden(np.array(boxes, dtype=np.float64), size)


@SIZES
def test_our_crops_are_distributed_as_tensorflows(size: dict[str, Any]) -> None:
    assert_distributed_as_golden(our_boxes(size, "paper"), size)


def test_torchvisions_crops_are_not_distributed_as_tensorflows() -> None:
    size = GOLDEN["sampler"]["sizes"][0]
    with pytest.raises(AssertionError):
        assert_distributed_as_golden(our_boxes(size, "torchvision"), size)
