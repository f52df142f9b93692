"""Time of work that a device may do later: waited for between repeats, or marked by events that nobody waits for."""

import time
from collections.abc import Callable
from statistics import median

import torch

from train.ranks import Ranks

_LAP_SECONDS = 0.1
"""Of a lap on CUDA at least, so that waiting for its end weighs little."""

Mark = float | torch.cuda.Event


def repeat_seconds(work: Callable[[], object], seconds: float, device: torch.device, ranks: Ranks) -> float:
    """Median seconds of a call, the first left out. All ranks call at the same time and equally often.

    Args:
        work: what is timed.
        seconds: to go on for; at least one lap is timed.
        device: that is waited for after each lap.
        ranks: that do the same.
    """
    first = _lap(work, 1, device)
    calls = max(1, round(_LAP_SECONDS / max(first, 1e-6))) if device.type == "cuda" else 1
    (calls,) = ranks.most([calls])
    laps: list[float] = []
    start = time.perf_counter()
    while not ranks.most([bool(laps) and time.perf_counter() - start > seconds])[0]:
        laps.append(_lap(work, calls, device) / calls)
    return median(laps)


def mark(device: torch.device) -> Mark:
    """This moment: of the host, or on CUDA of the device's queue."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: Mark, end: Mark) -> float:
    """Seconds; waits for the device to come to the end."""
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000
    return float(end) - float(start)  # type: ignore[arg-type]  # a device never mixes the two kinds


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _lap(work: Callable[[], object], calls: int, device: torch.device) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        work()
    wait_for(device)
    return time.perf_counter() - start
