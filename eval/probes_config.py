"""Settings of the probes before and after the projection head. Nothing here imports torch."""

from dataclasses import dataclass

from jsonargparse.typing import PositiveInt


@dataclass(frozen=True, kw_only=True)
class ProbesConfig:
    """What h and z tell of an image and of what was done to it (Chen et al. 2020, table 3)."""

    images: PositiveInt = 10_000
    """Of train to learn from, and of test to be scored on, spread over each split; all where there are fewer."""
