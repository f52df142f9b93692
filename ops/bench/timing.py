"""Seconds of work on a device: by its own events on CUDA, by the clock on a CPU."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seconds_of(work: Callable[[], object], device: "torch.device") -> float:
    """Time one call.

    On CUDA, of what it asks of the current stream, which is waited for: launches count only where the device waits for
    them.
    """
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    import torch

    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    work()
    end_event.record()
    end_event.synchronize()
    return float(start_event.elapsed_time(end_event)) / 1000
