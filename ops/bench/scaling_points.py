"""The points of the sweeps: one run's configuration, changed in one place at a time."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from train.config import PretrainConfig
from train.errors import RunError

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """A configuration, and how many ranks share its global batch."""

    sweep: str
    label: str
    config: PretrainConfig
    ranks: int = 1


def points(config: PretrainConfig, batches: str, sizes: str, encoders: str, ranks: str, most_ranks: int) -> list[Point]:
    """One after another: global batches, image sizes, encoders, ranks that share a batch, ranks with a batch each.

    Args:
        config: of the run that the sweeps go around; it is the first point.
        batches: global batches, separated by commas. Empty: half, and twice, the run's.
        sizes: sides of views in pixels. Empty: half, and twice.
        encoders: NAME or NAME:WIDTH each, such as resnet50:0.5. Empty: half, and twice, the width, where it can be set.
        ranks: numbers of ranks. Empty: powers of two, as far as the machine goes.
        most_ranks: that the machine has devices or cores for.

    Raises:
        RunError: something cannot be read, or cannot be run.
    """
    batch, size, width = config.global_batch, config.views.size, config.encoder.width
    of_batches = numbers("batches", batches, int) or [max(2, batch // 2), batch * 2]
    of_sizes = numbers("sizes", sizes, int) or [max(8, size // 2), size * 2]
    has_width = re.fullmatch("resnet(18|34|50|101|152)", config.encoder.name) is not None
    of_encoders = encoders or (f"{width / 2:g},{width * 2:g}" if has_width else "")
    of_ranks = numbers("ranks", ranks, int) or [count for count in (1, 2, 4) if count <= most_ranks]
    made = [Point("this run", describe(config), config)]
    made += [Point("global batch", f"{one}", replace(config, global_batch=one)) for one in of_batches]
    for one in of_sizes:
        canvas = max(1, round(config.data.canvas * one / size))
        resized = replace(config, views=replace(config.views, size=one), data=replace(config.data, canvas=canvas))
        made.append(Point("image size", f"{one} px", resized))
    made += [Point("encoder", *_with_encoder(config, one.strip())) for one in of_encoders.split(",") if one]
    for count in of_ranks:
        if count > most_ranks:
            raise RunError(f"ranks = {count}: this machine has devices or cores for {most_ranks}")
        if batch % count:
            raise RunError(f"ranks = {count}: does not divide global_batch = {batch}")
        if count > 1:
            made.append(Point("ranks share the batch", f"{count}", config, count))
            made.append(Point("ranks with it each", f"{count}", replace(config, global_batch=batch * count), count))
    return made


def describe(config: PretrainConfig) -> str:
    """What the sweeps change."""
    name, width = config.encoder.name, config.encoder.width
    return f"{name}:{width:g}, {config.views.size} px, global batch {config.global_batch}"


def numbers(name: str, text: str, kind: Callable[[str], T]) -> list[T]:
    """Positive ones, separated by commas.

    Raises:
        RunError: these are not.
    """
    try:
        values = [kind(word) for word in text.split(",") if word.strip()]
    except ValueError:
        values = []
    if (text and not values) or any(value <= 0 for value in values):  # type: ignore[operator]  # int or float
        raise RunError(f"{name} = {text}: must be positive numbers, separated by commas")
    return values


def _with_encoder(config: PretrainConfig, text: str) -> tuple[str, PretrainConfig]:
    name, _, width = text.partition(":")
    if name[:1].isdigit():
        name, width = config.encoder.name, name
    (wide,) = numbers("encoders", width, float) or [config.encoder.width]
    return f"{name}:{wide:g}", replace(config, encoder=replace(config.encoder, name=name, width=wide))
