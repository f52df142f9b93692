"""Seconds of each stage of a step, on the host's clock or, on CUDA, by events that nobody waits for in the step."""

import time

import torch


class StageClock:
    """Call `start`, then `mark` at the end of each stage, then `seconds`.

    On CUDA `seconds` waits for the device: call it where the host waits anyway. Unsampled steps cost nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._sampled = False
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    def start(self, *, sampled: bool) -> None:
        """Begin a step."""
        self._sampled = sampled
        self._marks = []
        self.mark("start")

    def mark(self, stage: str) -> None:
        """The stage ends here."""
        if self._sampled:
            self._marks.append((stage, self._now()))

    def seconds(self) -> dict[str, float]:
        """Of each stage of the last sampled step, in order."""
        return {
            stage: _between(before, after)
            for (_, before), (stage, after) in zip(self._marks, self._marks[1:], strict=False)
        }

    def _now(self) -> float | torch.cuda.Event:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(before: float | torch.cuda.Event, after: float | torch.cuda.Event) -> float:
    if isinstance(before, torch.cuda.Event) and isinstance(after, torch.cuda.Event):
        after.synchronize()
        return float(before.elapsed_time(after)) / 1000
    return float(after) - float(before)  # type: ignore[arg-type]  # a clock never mixes the two kinds
