"""Naive float64 references of the views' operations, written from published formulas. Imports nothing of ours.

Images are (height, width, channels) arrays in [0, 1]; colours are (height, width, 3). What is called paper here is the
reference code of Chen et al. 2020 on top of TensorFlow; its functions are held against numbers that TensorFlow made.
"""

import colorsys
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]

PAPER_LUMINANCE = (0.2989, 0.587, 0.114)  # tf.image.rgb_to_grayscale; the sum is 0.9999
TORCHVISION_LUMINANCE = (0.299, 0.587, 0.114)


def paper_brightness(image: Floats, factor: float) -> Floats:
    """The reference code's "simclrv2": a multiple."""
    return _clipped(image * factor)


def paper_contrast(image: Floats, factor: float) -> Floats:
    """tf.image.adjust_contrast: away from each channel's own mean."""
    mean = image.mean(axis=(0, 1))
    return _clipped((image - mean) * factor + mean)


def paper_saturation(image: Floats, factor: float) -> Floats:
    """tf.image.adjust_saturation: S of HSV is multiplied, and clipped while value and hue stay."""
    return _in_hsv(image, lambda h, s, v: (h, min(max(s * factor, 0.0), 1.0), v))


def paper_hue(image: Floats, turns: float) -> Floats:
    """tf.image.adjust_hue: H of HSV moves on its circle. torchvision's adjust_hue is the same."""
    return _in_hsv(image, lambda h, s, v: ((h + turns) % 1.0, s, v))


def torchvision_brightness(image: Floats, factor: float) -> Floats:
    """Blend with black."""
    return _clipped(image * factor)


def torchvision_contrast(image: Floats, factor: float) -> Floats:
    """Blend with one gray, the mean luminance of the image."""
    mean = (image @ TORCHVISION_LUMINANCE).mean()
    return _clipped(factor * image + (1 - factor) * mean)


def torchvision_saturation(image: Floats, factor: float) -> Floats:
    """Blend with each pixel's own luminance."""
    return _clipped(factor * image + (1 - factor) * grayscale(image, TORCHVISION_LUMINANCE))


def grayscale(image: Floats, weights: tuple[float, float, float]) -> Floats:
    """The luminance in all three channels."""
    red, green, blue = weights
    luminance = red * image[..., 0] + green * image[..., 1] + blue * image[..., 2]
    return np.stack([luminance] * 3, axis=2)


def gaussian_blur(image: Floats, sigma: float, kernel: int, border: Literal["zero", "reflect"]) -> Floats:
    """Separable Gaussian of 2 (kernel // 2) + 1 samples that sum to 1.

    Args:
        image: any channels.
        sigma: in pixels.
        kernel: size; an even one counts as the next odd one.
        border: zero, as the reference code, so that borders darken; reflect, without repeating the edge.
    """
    radius = kernel // 2
    weights = [math.exp(-(x**2) / (2 * sigma**2)) for x in range(-radius, radius + 1)]
    weights = [weight / sum(weights) for weight in weights]

    def along_rows(source: Floats) -> Floats:
        result = np.zeros_like(source)
        rows = len(source)
        for row in range(rows):
            for offset, weight in zip(range(-radius, radius + 1), weights, strict=True):
                other = row + offset
                if border == "reflect":
                    other = abs(other) if other < rows else 2 * (rows - 1) - other
                if 0 <= other < rows:
                    result[row] += weight * source[other]
        return result

    return along_rows(along_rows(image).swapaxes(0, 1)).swapaxes(0, 1)


def resize(crop: Floats, size: int, kernel: Literal["bilinear", "bicubic"], *, antialias: bool) -> Floats:
    """Resize to (size, size, channels) with half-pixel centres; unclipped, so that bicubic overshoots.

    The kernels are the triangle and Keys's cubic with a = -1/2. A border is the crop's own: pixels beyond it do not
    count, and the weights of the others sum to 1.

    Args:
        crop: any channels.
        size: of both sides of the result.
        kernel: as above.
        antialias: whether the kernel is as wide as a target pixel where that is wider than a source pixel.
    """
    weight_of = _triangle if kernel == "bilinear" else _keys_cubic

    def along_rows(source: Floats) -> Floats:
        scale = len(source) / size
        width = max(scale, 1.0) if antialias else 1.0
        result = np.zeros((size, *source.shape[1:]))
        for row in range(size):
            centre = (row + 0.5) * scale
            weights = [weight_of((other + 0.5 - centre) / width) for other in range(len(source))]
            for other, weight in enumerate(weights):
                if weight:
                    result[row] += weight / sum(weights) * source[other]
        return result

    return along_rows(along_rows(crop).swapaxes(0, 1)).swapaxes(0, 1)


def sobel_magnitude(image: Floats) -> Floats:
    """sqrt(gx^2 + gy^2 + 1e-6) of each channel, by Sobel's kernels over 8, the border repeated, as Kornia's sobel."""
    height, width, _ = image.shape
    across = ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            gx, gy = np.zeros(image.shape[2]), np.zeros(image.shape[2])
            for i in range(3):
                for j in range(3):
                    pixel = image[min(max(row + i - 1, 0), height - 1), min(max(column + j - 1, 0), width - 1)]
                    gx += across[i][j] / 8 * pixel
                    gy += across[j][i] / 8 * pixel
            result[row, column] = np.sqrt(gx**2 + gy**2 + 1e-6)
    return result


def paper_crop(rng: np.random.Generator, height: int, width: int, area_min: float, area_max: float) -> Box:
    """TensorFlow's sample_distorted_bounding_box as the reference code calls it, one box (kernels/image/
    sample_distorted_bounding_box_op.cc).

    Args:
        rng: any stream; which numbers come out of it is not TensorFlow's.
        height: of the image in pixels.
        width: likewise.
        area_min: smallest share of the image.
        area_max: largest share.

    Returns:
        Top, left, height and width in pixels: of the first of 100 attempts that fits, else of the whole image.
    """
    for _ in range(100):
        box = _attempt(rng, height, width, area_min * height * width, area_max * height * width)
        if box is not None and box[2] * box[3] / (height * width) >= 0.1:  # min_object_covered
            return box
    return 0, 0, height, width


def _attempt(rng: np.random.Generator, height: int, width: int, least: float, most: float) -> Box | None:
    aspect = rng.uniform(3 / 4, 4 / 3)
    shortest, tallest = round(math.sqrt(least / aspect)), round(math.sqrt(most / aspect))
    if round(tallest * aspect) > width:
        tallest = int((width + 0.5 - 1e-7) / aspect)
        if round(tallest * aspect) > width:
            tallest -= 1
    tallest = min(tallest, height)
    crop_height = min(shortest, tallest)
    if crop_height < tallest:
        crop_height += int(rng.integers(tallest - crop_height + 1))
    crop_width = round(crop_height * aspect)
    if crop_height * crop_width < least:
        crop_height += 1
        crop_width = round(crop_height * aspect)
    if crop_height * crop_width > most:
        crop_height -= 1
        crop_width = round(crop_height * aspect)
    if not least <= crop_height * crop_width <= most or crop_width > width or crop_height > height or crop_width <= 0:
        return None
    top = int(rng.integers(height - crop_height)) if crop_height < height else 0
    left = int(rng.integers(width - crop_width)) if crop_width < width else 0
    return top, left, crop_height, crop_width


def _clipped(image: Floats) -> Floats:
    return np.minimum(np.maximum(image, 0.0), 1.0)


def _in_hsv(image: Floats, change: Callable[[float, float, float], tuple[float, float, float]]) -> Floats:
    pixels = [
        colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(float(x) for x in pixel)))) for pixel in image.reshape(-1, 3)
    ]
    return _clipped(np.array(pixels).reshape(image.shape))


def _triangle(x: float) -> float:
    return max(1 - abs(x), 0.0)


def _keys_cubic(x: float) -> float:
    a, x = -0.5, abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * (x**3 - 5 * x**2 + 8 * x - 4)
    return 0.0
