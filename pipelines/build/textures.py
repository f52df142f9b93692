"""Ten families of procedural textures: a data set that needs no download and that SimCLR solves but raw pixels do not.

Family is a matter of form alone. Phase, direction, frequency, contrast sign and tint are drawn alike for all families,
so that neither colour nor any fixed pixel tells them apart, and colour jitter destroys nothing that matters.
"""

import math
from functools import partial

import numpy as np
import numpy.typing as npt

from pipelines.build.images import encode_png
from pipelines.build.items import Item, Items
from pipelines.build.sources import Source, split_word
from pipelines.hashing import hash64, uniform

SIDE = 32
PNG_BYTES = SIDE * SIDE * 3 + 512
"""No PNG of SIDE x SIDE RGB pixels is larger: deflate falls back to storing."""

TRAIN_COUNT = 5_000
TEST_COUNT = 1_000

FAMILIES = (
    "bricks",
    "checker",
    "grid",
    "plaid",
    "rings",
    "sine_stripes",
    "smooth_noise",
    "square_stripes",
    "white_noise",
    "zigzag",
)

FREQUENCY_RANGE = (11.0, 16.0)  # radians per half side: 3.5 to 5 periods across the image
DARK_RANGE = (0.05, 0.35)
BRIGHT_RANGE = (0.65, 0.95)
TINT_SCALE = 0.04
NOISE_SCALE = 0.08

FloatArray = npt.NDArray[np.float64]


def textures_source(seed: int, train_count: int = TRAIN_COUNT, test_count: int = TEST_COUNT) -> Source:
    """Classes in turn, so that each is as frequent as any other."""
    counts = {"train": train_count, "test": test_count}
    return Source(
        name="textures",
        classes=FAMILIES,
        items=Items(
            Item(split, index % len(FAMILIES), f"{split}/{index:06d}", "", index, PNG_BYTES)
            for split, count in counts.items()
            for index in range(count)
        ),
        read=partial(read_texture, seed),
        faults=[],
    )


def read_texture(seed: int, item: Item) -> bytes:
    """PNG of an item."""
    return encode_png(texture(seed, item.split, item.offset))


def texture(seed: int, split: str, index: int) -> npt.NDArray[np.uint8]:
    """Image `index` of a split, of family `index` modulo 10.

    Returns:
        (SIDE, SIDE, 3) RGB.
    """
    key = (seed, split_word(split), index)
    draw = uniform(hash64(*key, np.arange(8)))
    angle = 2 * np.pi * draw[0]
    frequency = _within(FREQUENCY_RANGE, draw[1])
    across = np.linspace(-1 + 1 / SIDE, 1 - 1 / SIDE, SIDE)
    x = frequency * (np.cos(angle) * across + np.sin(angle) * across[:, None])
    y = frequency * (np.cos(angle) * across[:, None] - np.sin(angle) * across)
    noise = _normal(hash64(*key, 1000 + np.arange(SIDE * SIDE * 4))).reshape(4, SIDE, SIDE)
    pattern = _pattern(FAMILIES[index % len(FAMILIES)], x, y, 2 * np.pi * draw[2:4], frequency, noise[3])

    bright = ((np.clip(pattern, -1.5, 1.5) + 1.5) / 3)[:, :, None]  # share of the first colour
    colours = np.array([_within(DARK_RANGE, draw[4]), _within(BRIGHT_RANGE, draw[5])])
    if draw[6] < 0.5:
        colours = colours[::-1]
    tinted = colours[:, None] + TINT_SCALE * _normal(hash64(*key, 500 + np.arange(6))).reshape(2, 3)
    image = bright * tinted[0] + (1 - bright) * tinted[1] + NOISE_SCALE * noise[:3].transpose(1, 2, 0)
    pixels: npt.NDArray[np.uint8] = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    return pixels


def _pattern(
    family: str, x: FloatArray, y: FloatArray, phase: FloatArray, frequency: float, noise: FloatArray
) -> FloatArray:
    """Brightness of a family, about 1 in size, at x and y in radians of its frequency."""
    first: FloatArray = np.sin(x + phase[0])
    second: FloatArray = np.sin(y + phase[1])
    pattern: FloatArray
    match family:
        case "bricks":
            course, height = np.divmod((y + phase[1]) / np.pi, 1)
            along = ((x + phase[0]) / np.pi + course % 2 / 2) % 1
            pattern = np.where((along > 0.15) & (height > 0.2), 1.0, -1.0)
        case "checker":
            pattern = np.sign(first * second)
        case "grid":
            pattern = np.maximum(first, second)
        case "plaid":
            pattern = first + second
        case "rings":
            centre = (phase / np.pi - 1) * frequency / 2
            pattern = np.sin(np.hypot(x - centre[0], y - centre[1]))
        case "sine_stripes":
            pattern = first
        case "smooth_noise":
            smooth = _blur(noise, sigma=6.75 / math.sqrt(frequency))
            pattern = smooth / smooth.std()
        case "square_stripes":
            pattern = np.sign(first)
        case "white_noise":
            pattern = noise
        case "zigzag":
            pattern = np.sin(x + phase[0] + 2 * np.sin(y / 2 + phase[1]))
        case _:
            raise ValueError(family)
    return pattern


def _blur(field: FloatArray, sigma: float) -> FloatArray:
    """Gaussian blur that wraps around."""
    distance = (np.arange(SIDE) + SIDE // 2) % SIDE - SIDE // 2
    kernel = np.exp(-0.5 * (distance / sigma) ** 2)
    matrix = kernel[(np.arange(SIDE)[:, None] - np.arange(SIDE)) % SIDE]
    blurred: FloatArray = matrix @ field @ matrix.T
    return blurred


def _within(bounds: tuple[float, float], share: float) -> float:
    return float(bounds[0] + (bounds[1] - bounds[0]) * share)


def _normal(bits: npt.NDArray[np.uint64]) -> FloatArray:
    """Nearly normal: the sum of four uniform 16-bit numbers.

    Integers all the way, so that it is the same on every machine, which logarithm and cosine need not be.
    """
    total = np.zeros(bits.shape, dtype=np.float64)
    for shift in (0, 16, 32, 48):
        total += (bits >> np.uint64(shift)) & np.uint64(0xFFFF)
    return (total - 2 * 0xFFFF) / 0x10000 * math.sqrt(3)
