"""Random crops, drawn in the geometry of the original image by either of the field's two samplers."""

import math

import numpy as np
import numpy.typing as npt

from pipelines.config import PAPER_LEAST_AREA, ViewsConfig

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ASPECT = (3 / 4, 4 / 3)
"""Width to height of a crop, lowest and highest, in pixels of the original image."""
TORCHVISION_DRAWS = 22
PAPER_ATTEMPTS = 100
PAPER_DRAWS = 4
"""Of one attempt: aspect, height, top, left."""


def torchvision_boxes(config: ViewsConfig, u: Floats, height: Ints, width: Ints) -> Floats:
    """Boxes by the sampler of torchvision's RandomResizedCrop.

    Area uniform, aspect log-uniform, sides rounded to pixels, the first of ten tries that fits, position uniform over
    the whole pixels that keep the box inside; else the largest central box of an allowed aspect.

    Args:
        config: the range of areas.
        u: (N, TORCHVISION_DRAWS) uniform in [0, 1): ten areas, ten aspects, top, left.
        height: (N,) of the original images in pixels.
        width: (N,) likewise.

    Returns:
        (N, 4) top, left, height and width in whole pixels.
    """
    area = _between(config.crop_area_min, config.crop_area_max, u[:, :10]) * (height * width)[:, None]
    aspect = np.exp(_between(math.log(ASPECT[0]), math.log(ASPECT[1]), u[:, 10:20]))
    tried_width = np.round(np.sqrt(area * aspect))
    tried_height = np.round(np.sqrt(area / aspect))
    fits = (tried_width > 0) & (tried_width <= width[:, None]) & (tried_height > 0) & (tried_height <= height[:, None])
    rows, first = np.arange(len(u)), fits.argmax(axis=1)
    fitted = fits.any(axis=1)
    crop_width = np.where(fitted, tried_width[rows, first], np.minimum(width, np.round(height * ASPECT[1])))
    crop_height = np.where(fitted, tried_height[rows, first], np.minimum(height, np.round(width / ASPECT[0])))
    top = np.where(fitted, np.floor(u[:, 20] * (height - crop_height + 1)), (height - crop_height) // 2)
    left = np.where(fitted, np.floor(u[:, 21] * (width - crop_width + 1)), (width - crop_width) // 2)
    return np.stack([top, left, crop_height, crop_width], axis=1)


def paper_attempt(config: ViewsConfig, u: Floats, height: Ints, width: Ints) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """One attempt of TensorFlow's `sample_distorted_bounding_box` as the reference code calls it.

    Aspect uniform; height uniform over the whole pixels between those of the least and the largest area that fits, so
    that small crops are likelier than by torchvision's sampler; position uniform, but never at the far edge; at least a
    tenth of the image covered. After PAPER_ATTEMPTS failed attempts the crop is the whole image.

    Args:
        config: the range of areas.
        u: (N, PAPER_DRAWS) uniform in [0, 1).
        height: (N,) of the original images in pixels.
        width: (N,) likewise.

    Returns:
        (N, 4) boxes as of `torchvision_boxes`, and which of them count.
    """
    aspect = _between(*ASPECT, u[:, 0])
    pixels = (height * width).astype(np.float64)
    least, most = config.crop_area_min * pixels, config.crop_area_max * pixels
    tallest = np.rint(np.sqrt(most / aspect))
    too_wide = np.rint(tallest * aspect) > width
    fitting = np.floor((width + 0.5 - 1e-7) / aspect)
    fitting -= np.rint(fitting * aspect) > width
    tallest = np.minimum(np.where(too_wide, fitting, tallest), height)
    shortest = np.minimum(np.rint(np.sqrt(least / aspect)), tallest)
    crop_height = shortest + np.floor(u[:, 1] * (tallest - shortest + 1))
    # Rounding may have missed the range of areas by a pixel.
    crop_height += crop_height * np.rint(crop_height * aspect) < least
    crop_height -= crop_height * np.rint(crop_height * aspect) > most
    crop_width = np.rint(crop_height * aspect)
    area = crop_height * crop_width
    counts = (area >= np.maximum(least, PAPER_LEAST_AREA * pixels)) & (area <= most) & (area > 0)
    counts &= (crop_width <= width) & (crop_height <= height)
    top, left = np.floor(u[:, 2] * (height - crop_height)), np.floor(u[:, 3] * (width - crop_width))
    return np.stack([top, left, crop_height, crop_width], axis=1), counts


def _between(low: float, high: float, u: Floats) -> Floats:
    return low + (high - low) * u
