"""The random numbers of the views, drawn on the host: a pure function of (seed, epoch, sample id, view).

So a view does not depend on the world size, the rank, the place in the batch, the device, or on what was drawn before.
Everything that can be derived from the numbers (boxes, factors, and which rows an operation touches) is derived here,
where it costs no device time and where the sizes of the row lists are known without asking the device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.config import ViewsConfig
from pipelines.hashing import hash64, uniform

VIEWS = 2
COLOUR_OPERATIONS = ("brightness", "contrast", "saturation", "hue")
_ORDERS = np.array(list(permutations(range(len(COLOUR_OPERATIONS)))))  # (24, 4): the operation at each stage

_VIEW = 3  # first word of the hash; see order.py
# Which draw of a view means what; appended to, never renumbered, or old runs would change.
_AREA, _ASPECT = slice(0, 10), slice(10, 20)
_TOP, _LEFT, _FLIP, _JITTER, _ORDER, _GRAYSCALE, _BLUR, _SIGMA = range(20, 28)
_FACTORS = slice(28, 32)
_DRAWS = 32

_CROP_ASPECT = (3 / 4, 4 / 3)
_BLUR_SIGMA = (0.1, 2.0)
# Columns of Draws.numbers.
_BOX, _FLIPPED, _BLUR_SIGMA_COLUMN, _FACTOR_COLUMNS = slice(0, 4), 4, 5, slice(6, 10)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """What is to be done to the 2B views of a batch of B images; rows i and i+B are the two views of image i."""

    numbers: Tensor
    """(2B, 10) float32; read through the properties below."""
    colour_rows: tuple[tuple[Tensor, ...], ...]
    """[stage][operation] -> int64 rows whose colour is changed by that operation at that stage."""
    grayscale_rows: Tensor
    """int64 rows to turn gray."""
    blur_rows: Tensor
    """int64 rows to blur."""

    @property
    def box(self) -> Tensor:
        """(2B, 4) top, left, height, width of the crop, each as a share of the image's height or width."""
        return self.numbers[:, _BOX]

    @property
    def flip(self) -> Tensor:
        """(2B,) 1 where the view is mirrored, else 0."""
        return self.numbers[:, _FLIPPED]

    @property
    def sigma(self) -> Tensor:
        """(2B,) of the blur, in pixels of the view."""
        return self.numbers[:, _BLUR_SIGMA_COLUMN]

    @property
    def factors(self) -> Tensor:
        """(2B, 4) strength of each colour operation: three multipliers, and the hue's shift in turns."""
        return self.numbers[:, _FACTOR_COLUMNS]

    def pin_memory(self) -> "Draws":
        """The same draws in page-locked memory, from which the copy to a GPU is asynchronous."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Draws":
        """The same draws on a device; asynchronous from page-locked memory."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Draws":
        """Apply a function to one packed buffer, not to twenty small tensors: one copy instead of twenty."""
        rows = [*(rows for stage in self.colour_rows for rows in stage), self.grayscale_rows, self.blur_rows]
        packed = function(torch.cat([*rows, self.numbers.reshape(-1).view(torch.int64)]))
        *moved, numbers = torch.split_with_sizes(packed, [*(len(row) for row in rows), self.numbers.numel() // 2])
        operations = len(COLOUR_OPERATIONS)
        return Draws(
            numbers=numbers.view(torch.float32).view(self.numbers.shape),
            colour_rows=tuple(tuple(moved[i * operations : (i + 1) * operations]) for i in range(operations)),
            grayscale_rows=moved[-2],
            blur_rows=moved[-1],
        )


def draw_views(
    config: ViewsConfig,
    sample_id: npt.NDArray[np.int64],
    height: npt.NDArray[np.int64],
    width: npt.NDArray[np.int64],
    seed: int,
    epoch: int,
) -> Draws:
    """Draw both views of a batch.

    Args:
        config: ranges and probabilities.
        sample_id: (B,).
        height: (B,) of the original image in pixels; crops are drawn in its geometry.
        width: (B,) likewise.
        seed: of the run, in [0, 2^64).
        epoch: from 0.
    """
    view = np.arange(VIEWS)[:, None, None]
    u = uniform(hash64(_VIEW, seed, epoch, sample_id[None, :, None], view, np.arange(_DRAWS)))
    u = u.reshape(VIEWS * len(sample_id), _DRAWS)  # (2B, draws), first views then second

    numbers = np.empty((len(u), 10), dtype=np.float32)
    numbers[:, _BOX] = _crop_boxes(config, u, np.tile(height, VIEWS), np.tile(width, VIEWS))
    numbers[:, _FLIPPED] = u[:, _FLIP] < config.flip_probability
    numbers[:, _BLUR_SIGMA_COLUMN] = _between(*_BLUR_SIGMA, u[:, _SIGMA])
    blend, hue = 0.8 * config.jitter_strength, 0.2 * config.jitter_strength
    lowest, highest = np.array([1 - blend] * 3 + [-hue]), np.array([1 + blend] * 3 + [hue])
    numbers[:, _FACTOR_COLUMNS] = _between(lowest, highest, u[:, _FACTORS])

    jittered = u[:, _JITTER] < config.jitter_probability if config.jitter_strength > 0 else np.zeros(len(u), dtype=bool)
    order = _ORDERS[(u[:, _ORDER] * len(_ORDERS)).astype(np.int64)]  # (2B, stages)
    return Draws(
        numbers=torch.from_numpy(numbers),
        colour_rows=tuple(
            tuple(_rows(jittered & (order[:, stage] == operation)) for operation in range(len(COLOUR_OPERATIONS)))
            for stage in range(len(COLOUR_OPERATIONS))
        ),
        grayscale_rows=_rows(u[:, _GRAYSCALE] < config.grayscale_probability),
        blur_rows=_rows(u[:, _BLUR] < config.blur_probability),
    )


def _crop_boxes(config: ViewsConfig, u: Floats, height: npt.NDArray[np.int64], width: npt.NDArray[np.int64]) -> Floats:
    """(2B, 4) boxes as shares of the image, by the sampler of torchvision's RandomResizedCrop.

    Area uniform, aspect log-uniform, sides rounded to pixels, the first of ten tries that fits, position uniform over
    the whole pixels that keep the box inside; else the largest central box of an allowed aspect.
    """
    area = _between(config.crop_area_min, config.crop_area_max, u[:, _AREA]) * (height * width)[:, None]
    aspect = np.exp(_between(math.log(_CROP_ASPECT[0]), math.log(_CROP_ASPECT[1]), u[:, _ASPECT]))
    tried_width = np.round(np.sqrt(area * aspect))
    tried_height = np.round(np.sqrt(area / aspect))
    fits = (tried_width > 0) & (tried_width <= width[:, None]) & (tried_height > 0) & (tried_height <= height[:, None])
    rows, first = np.arange(len(u)), fits.argmax(axis=1)
    fitted = fits.any(axis=1)
    crop_width = np.where(fitted, tried_width[rows, first], np.minimum(width, np.round(height * _CROP_ASPECT[1])))
    crop_height = np.where(fitted, tried_height[rows, first], np.minimum(height, np.round(width / _CROP_ASPECT[0])))
    top = np.where(fitted, np.floor(u[:, _TOP] * (height - crop_height + 1)), (height - crop_height) // 2)
    left = np.where(fitted, np.floor(u[:, _LEFT] * (width - crop_width + 1)), (width - crop_width) // 2)
    return np.stack([top / height, left / width, crop_height / height, crop_width / width], axis=1)


def _between(low: float | Floats, high: float | Floats, u: Floats) -> Floats:
    return low + (high - low) * u


def _rows(mask: npt.NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask))
