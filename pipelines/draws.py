"""The random numbers of the views, drawn on the host: a pure function of (seed, epoch, sample id, view).

So a view does not depend on the world size, the rank, the place in the batch, the device, or on what was drawn before.
"""

from dataclasses import dataclass, fields
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.config import Operation, ViewsConfig
from pipelines.crop_boxes import PAPER_ATTEMPTS, PAPER_DRAWS, TORCHVISION_DRAWS, paper_attempt, torchvision_boxes
from pipelines.hashing import UInt64Array, hash64, uniform

VIEWS = 2
COLOUR_OPERATIONS = ("brightness", "contrast", "saturation", "hue")
BLUR_SIGMA = (0.1, 2.0)
_ORDERS = np.array(list(permutations(range(len(COLOUR_OPERATIONS)))))  # (24, 4): the operation at each stage

_VIEW, _PAPER_CROP, _BATCH_ORDER = 3, 4, 5  # first words of the hash; see order.py
# Which draw of a view means what; appended to, never renumbered, or old runs would change.
_FLIP, _JITTER, _ORDER, _GRAYSCALE, _BLUR, _SIGMA = range(22, 28)
_FACTORS = slice(28, 32)
_DRAWS = 32
# Of the operations that few runs use.
_TURN, _QUARTERS, _SOBEL, _NOISE, _STD, _KEY, _CUTOUT = range(32, 39)
_CENTRE = slice(39, 41)
_ALL_DRAWS = 41

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What is to be done to the 2B views of a batch of B images; rows i and i+B are the two views of image i."""

    box: Floats
    """(2B, 4) top, left, height, width of the crop, each as a share of the image's height or width."""
    flip: Bools
    """(2B,)."""
    quarter_turns: Ids
    """(2B,) rotation to the left, 0 to 3."""
    jitter: Bools
    """(2B,) whether colours change."""
    order: Ids
    """(2B, 4) which of COLOUR_OPERATIONS comes first, second, third, last."""
    factors: Floats
    """(2B, 4) strength of each colour operation: three multipliers, and the hue's shift in turns."""
    grayscale: Bools
    """(2B,)."""
    blur: Bools
    """(2B,)."""
    sigma: Floats
    """(2B,) of the blur, in pixels of the view."""
    sobel: Bools
    """(2B,)."""
    noise: Bools
    """(2B,)."""
    noise_std: Floats
    """(2B,) standard deviation of the noise."""
    noise_key: Ids
    """(2B,) in [0, 2^31): names the noise's pattern."""
    cutout: Bools
    """(2B,)."""
    cutout_centre: Floats
    """(2B, 2) row and column as shares of the view's side."""

    def __len__(self) -> int:
        return len(self.box)

    def take(self, rows: Ids) -> "Draws":
        """The draws of some views."""
        return Draws(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def draw_views(
    config: ViewsConfig, sample_id: Ids, height: Ids, width: Ids, seed: int, epoch: int, step: int = 0
) -> Draws:
    """Draw both views of a batch.

    Args:
        config: ranges and probabilities.
        sample_id: (B,).
        height: (B,) of the original image in pixels; crops are drawn in its geometry.
        width: (B,) likewise.
        seed: of the run, in [0, 2^64).
        epoch: from 0.
        step: of the global batch, to which a common order of colour operations belongs.
    """
    views = VIEWS * len(sample_id)
    u = _uniform(_VIEW, seed, epoch, sample_id, np.arange(_DRAWS))
    first = np.arange(views) < len(sample_id)

    def drawn(operation: Operation, below: Bools) -> Bools:
        return below & first if operation in config.first_view_only else below

    blend, hue = 0.8 * config.jitter_strength, 0.2 * config.jitter_strength
    lowest, highest = np.array([1 - blend] * 3 + [-hue]), np.array([1 + blend] * 3 + [hue])
    order = u[:, _ORDER]
    if config.jitter_order == "batch":
        order = np.broadcast_to(uniform(hash64(_BATCH_ORDER, seed, step)), (views,))
    return Draws(
        box=_boxes(config, u, sample_id, height, width, seed, epoch),
        flip=drawn("flip", u[:, _FLIP] < config.flip_probability),
        jitter=drawn("jitter", (u[:, _JITTER] < config.jitter_probability) & (config.jitter_strength > 0)),
        order=_ORDERS[(order * len(_ORDERS)).astype(np.int64)],
        factors=lowest + (highest - lowest) * u[:, _FACTORS],
        grayscale=drawn("grayscale", u[:, _GRAYSCALE] < config.grayscale_probability),
        blur=drawn("blur", u[:, _BLUR] < config.blur_probability),
        sigma=BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * u[:, _SIGMA],
        **_draw_study(config, sample_id, seed, epoch, first),
    )


def _draw_study(config: ViewsConfig, sample_id: Ids, seed: int, epoch: int, first: Bools) -> dict[str, Any]:
    """The operations of the composition study, drawn only for runs that use any of them."""
    views = len(first)
    if not (
        config.rotation_probability or config.sobel_probability or config.noise_probability or config.cutout_probability
    ):
        nowhere, nothing = np.zeros(views, dtype=bool), np.zeros(views, dtype=np.int64)
        return {
            "quarter_turns": nothing,
            "sobel": nowhere,
            "noise": nowhere,
            "noise_std": np.zeros(views),
            "noise_key": nothing,
            "cutout": nowhere,
            "cutout_centre": np.zeros((views, 2)),
        }
    u = _uniform(_VIEW, seed, epoch, sample_id, np.arange(_DRAWS, _ALL_DRAWS))

    def drawn(operation: Operation, draw: int, probability: float) -> Bools:
        below: Bools = u[:, draw - _DRAWS] < probability
        return below & first if operation in config.first_view_only else below

    turned = drawn("rotation", _TURN, config.rotation_probability)
    return {
        "quarter_turns": np.where(turned, 1 + np.floor(3 * u[:, _QUARTERS - _DRAWS]), 0).astype(np.int64),
        "sobel": drawn("sobel", _SOBEL, config.sobel_probability),
        "noise": drawn("noise", _NOISE, config.noise_probability),
        "noise_std": config.noise_max * u[:, _STD - _DRAWS],
        "noise_key": (u[:, _KEY - _DRAWS] * 2**31).astype(np.int64),
        "cutout": drawn("cutout", _CUTOUT, config.cutout_probability),
        "cutout_centre": u[:, _CENTRE.start - _DRAWS : _CENTRE.stop - _DRAWS],
    }


def _boxes(config: ViewsConfig, u: Floats, sample_id: Ids, height: Ids, width: Ids, seed: int, epoch: int) -> Floats:
    """(2B, 4) boxes as shares of the image."""
    height, width = np.tile(height, VIEWS), np.tile(width, VIEWS)
    if config.reference == "torchvision":
        pixels = torchvision_boxes(config, u[:, :TORCHVISION_DRAWS], height, width)
    else:
        pixels = np.stack([np.zeros_like(height), np.zeros_like(width), height, width], axis=1).astype(np.float64)
        ids, view = np.tile(sample_id, VIEWS), np.repeat(np.arange(VIEWS), len(sample_id))
        left = np.arange(len(pixels))  # rows without a box yet
        for attempt in range(PAPER_ATTEMPTS):
            words = (ids[left, None], view[left, None], np.arange(PAPER_DRAWS * attempt, PAPER_DRAWS * (attempt + 1)))
            tried = uniform(hash64(_PAPER_CROP, seed, epoch, *words))
            boxes, counts = paper_attempt(config, tried, height[left], width[left])
            pixels[left[counts]] = boxes[counts]
            left = left[~counts]
            if not len(left):
                break
    box = pixels / np.stack([height, width, height, width], axis=1)
    if "crop" in config.first_view_only:
        box[len(sample_id) :] = (0, 0, 1, 1)
    return box


def _uniform(word: int, seed: int, epoch: int, sample_id: Ids, draws: Ids) -> Floats:
    """(2B, draws), first views then second."""
    bits: UInt64Array = hash64(word, seed, epoch, sample_id[None, :, None], np.arange(VIEWS)[:, None, None], draws)
    return uniform(bits).reshape(VIEWS * len(sample_id), len(draws))
