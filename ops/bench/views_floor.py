"""What no maker of views can beat: to read the canvases once and write the views once, as fast as memory is copied."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ops.bench.views_setting import Setting


def copying(setting: dict[str, Any], least_bytes: int) -> Iterator[int]:
    """Numbers of views whose canvases and pixels are as many bytes as were read and written in a copy.

    Args:
        setting: of `Setting`.
        least_bytes: of the buffer that is copied, filled up to whole batches.
    """
    asked = Setting(**setting)
    batch_bytes = asked.canvas_bytes + asked.view_bytes
    batches = max(1, -(-least_bytes // batch_bytes))
    source = np.full(batches * batch_bytes, 127, dtype=np.uint8)
    target = np.zeros_like(source)
    while True:
        np.copyto(target, source)  # reads as many bytes as it writes
        yield 2 * batches * asked.views
