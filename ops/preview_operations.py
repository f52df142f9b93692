"""The operations of the views, one at a time: from the weakest to the strongest that a configuration can draw."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.config import PAPER_LEAST_AREA, Operation, ViewsConfig
from pipelines.crop_boxes import ASPECT
from pipelines.draws import BLUR_SIGMA, COLOUR_OPERATIONS, VIEWS, Draws

Ints = npt.NDArray[np.int64]

_STEPS = 9  # odd, so that the neutral strength is the middle one of a symmetric range
_SIGMAS = 6
_STDS = 5
_AREAS = 3
_CENTRES = 5
_ASPECTS = {"3:4": ASPECT[0], "1:1": 1.0, "4:3": ASPECT[1]}


@dataclass(frozen=True, kw_only=True)
class Strength:
    """One column of a sheet."""

    label: str
    """Its number."""
    note: str = ""
    fields: Mapping[str, Any]
    """What differs from the neutral draws, by field of Draws; empty for the neutral strength."""


@dataclass(frozen=True, kw_only=True)
class OperationRange:
    """What a configuration can draw for one operation."""

    name: str
    unit: str
    """Of the labels; empty where the operation is on or off."""
    probability: float
    part_of: Operation
    """As the configuration calls it."""
    strengths: tuple[Strength, ...]
    """Lowest first; the neutral one is among them."""


def neutral_draws(count: int) -> Draws:
    """Draws that leave each of `count` images whole and as it is: `VIEWS * count` rows."""
    rows = VIEWS * count
    nowhere, nothing = np.zeros(rows, dtype=bool), np.zeros(rows, dtype=np.int64)
    return Draws(
        box=np.tile([0.0, 0.0, 1.0, 1.0], (rows, 1)),
        flip=nowhere,
        quarter_turns=nothing,
        jitter=nowhere,
        order=np.tile(np.arange(len(COLOUR_OPERATIONS)), (rows, 1)),
        factors=np.tile([1.0, 1.0, 1.0, 0.0], (rows, 1)),
        grayscale=nowhere,
        blur=nowhere,
        sigma=np.full(rows, BLUR_SIGMA[0]),
        sobel=nowhere,
        noise=nowhere,
        noise_std=np.zeros(rows),
        noise_key=np.arange(rows),
        cutout=nowhere,
        cutout_centre=np.full((rows, 2), 0.5),
    )


def with_strength(draws: Draws, strength: Strength) -> Draws:
    """The draws with one operation done at a strength, the same to all views unless it says otherwise."""
    given = {name: np.asarray(value) for name, value in strength.fields.items()}
    return replace(draws, **{name: np.broadcast_to(given[name], getattr(draws, name).shape) for name in given})


def operation_ranges(config: ViewsConfig, height: Ints, width: Ints) -> list[OperationRange]:
    """All operations in the order in which they are applied.

    Args:
        config: ranges and probabilities.
        height: (N,) of the original images in pixels; crops have their aspect there.
        width: (N,) likewise.
    """
    optional = partial(_optional, config)
    quarters = (Strength(label=f"{90 * turns}°", fields={"quarter_turns": turns}) for turns in (1, 2, 3))
    sigmas = _numbers(*BLUR_SIGMA, _SIGMAS)
    stds = _numbers(0, config.noise_max, _STDS)[1:]
    centres = _numbers(0, 1, _CENTRES)
    return [
        _crop(config, height, width),
        optional("flip", "", "flip", (Strength(label="on", fields={"flip": True}),)),
        optional("rotation", "turn to the left", "rotation", tuple(quarters), off="0°"),
        *(_colour(config, column) for column in range(len(COLOUR_OPERATIONS))),
        optional("grayscale", "", "grayscale", (Strength(label="on", fields={"grayscale": True}),)),
        optional(
            "blur",
            "sigma in pixels of the view",
            "blur",
            tuple(Strength(label=_number(sigma), fields={"blur": True, "sigma": sigma}) for sigma in sigmas),
        ),
        optional("sobel", "", "sobel", (Strength(label="on", fields={"sobel": True}),)),
        optional(
            "noise",
            "standard deviation",
            "noise",
            tuple(Strength(label=_number(std), fields={"noise": True, "noise_std": std}) for std in stds),
            off="0",
        ),
        optional(
            "cutout",
            f"side {_number(config.cutout_side)}; row and column of its centre",
            "cutout",
            tuple(Strength(label=_number(place), fields={"cutout": True, "cutout_centre": place}) for place in centres),
        ),
    ]


def _optional(
    config: ViewsConfig, name: str, unit: str, part_of: Operation, strengths: tuple[Strength, ...], off: str = "off"
) -> OperationRange:
    """An operation that is not done at all where it is not drawn."""
    return OperationRange(
        name=name,
        unit=unit,
        part_of=part_of,
        probability=getattr(config, f"{part_of}_probability"),
        strengths=(_neutral(off), *strengths),
    )


def _colour(config: ViewsConfig, column: int) -> OperationRange:
    name = COLOUR_OPERATIONS[column]
    neutral, reach = (0.0, 0.2) if name == "hue" else (1.0, 0.8)
    reach *= config.jitter_strength
    strengths = []
    for value in _numbers(neutral - reach, neutral + reach, _STEPS) if reach else [neutral]:
        factors = np.array([1.0, 1.0, 1.0, 0.0])
        factors[column] = value
        changed = Strength(label=_number(value), fields={"jitter": True, "factors": factors})
        strengths.append(_neutral(_number(neutral)) if value == neutral else changed)
    return OperationRange(
        name=name,
        unit="turns" if name == "hue" else "factor",
        part_of="jitter",
        probability=config.jitter_probability,
        strengths=tuple(strengths),
    )


def _crop(config: ViewsConfig, height: Ints, width: Ints) -> OperationRange:
    """Central crops; one that sticks out of its image becomes the largest of its aspect that does not."""
    height, width = np.tile(height, VIEWS), np.tile(width, VIEWS)
    least = max(config.crop_area_min, PAPER_LEAST_AREA if config.reference == "paper" else 0.0)
    strengths = [_neutral("whole")]
    for name, aspect in _ASPECTS.items():
        for area in _numbers(least, config.crop_area_max, _AREAS):
            tall, wide = np.sqrt(area * height * width / aspect), np.sqrt(area * height * width * aspect)
            fitting = np.minimum(1, np.minimum(height / tall, width / wide))
            tall, wide = (np.maximum(1, np.rint(side * fitting)) for side in (tall, wide))
            top, left = (height - tall) // 2, (width - wide) // 2
            box = np.stack([top / height, left / width, tall / height, wide / width], axis=1)
            strengths.append(Strength(label=_number(area), note=name, fields={"box": box}))
    return OperationRange(
        name="crop",
        unit="area as a share of the image; aspect",
        part_of="crop",
        probability=1.0,
        strengths=tuple(strengths),
    )


def _neutral(label: str) -> Strength:
    return Strength(label=label, note="unchanged", fields={})


def _numbers(lowest: float, highest: float, count: int) -> list[float]:
    """Evenly spaced, both ends included; the same number only once."""
    return sorted({round(float(value), 6) for value in np.linspace(lowest, highest, count)})


def _number(value: float) -> str:
    return f"{value:.3g}"
