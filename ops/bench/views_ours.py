"""Our views as contestants. Every batch is drawn and planned anew, as in training, and that is timed with the rest."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor

from ops.bench.views_input import make_canvases, one_thread
from ops.bench.views_setting import Setting, count_views
from pipelines.augment import TwoViews
from pipelines.config import ViewsConfig
from pipelines.draws import draw_views
from pipelines.plan import plan_views

_COMPILING_BATCHES = 3


def views(setting: dict[str, Any], views_config: dict[str, Any]) -> Iterator[int]:
    """Numbers of views made.

    Args:
        setting: of `Setting`.
        views_config: of `ViewsConfig`, beyond what the setting says.
    """
    one_thread()
    asked = Setting(**setting)
    make = maker(asked, views_config)
    for _ in range(_COMPILING_BATCHES if "compile" in views_config else 0):
        make()
    while True:
        yield count_views([make()], asked)


def maker(setting: Setting, views_config: dict[str, Any]) -> Callable[[], Tensor]:
    """A function that makes the views of one batch, other ones at each call: as if an epoch had one batch."""
    config = ViewsConfig(
        size=setting.size, jitter_strength=setting.strength, blur_probability=setting.blur, **views_config
    )
    canvases, two_views, epochs = make_canvases(setting), TwoViews(config), count()
    sample_id = np.arange(setting.images)
    height, width = np.full_like(sample_id, setting.height), np.full_like(sample_id, setting.width)

    def make() -> Tensor:
        epoch = next(epochs)
        draws = draw_views(config, sample_id, height, width, seed=0, epoch=epoch, step=epoch)
        return two_views(canvases, plan_views(config, draws, setting.canvas))

    return make
