"""Where the time of each step goes: on the host's clock or, on CUDA, by events that nobody waits for."""

import time
from collections import deque
from contextlib import AbstractContextManager

import torch

STAGES = (
    "data",
    "agree",
    "augment",
    "forward",
    "gather",
    "loss",
    "backward",
    "all_reduce",
    "optimizer",
    "evaluation",
    "checkpoint",
)
"""In the order of a step. What each is, the metric diptych_train_stage_seconds_total tells."""

_Moment = float | torch.cuda.Event


class StageClock:
    """Call `enter` where a stage begins; the one before ends there, so that all of a step's time is some stage's.

    On CUDA the seconds are the device's: a stage in which only the host waited, while the device still had work, costs
    nothing, and a device without work counts for the stage that kept it waiting. Costs two microseconds a stage.
    """

    def __init__(self, device: torch.device, *, nvtx: bool = False) -> None:
        """Begin outside of any stage.

        Args:
            device: whose time it is.
            nvtx: show the stages to NVIDIA's profilers, too; CUDA only.
        """
        self._cuda, self._nvtx = device.type == "cuda", nvtx
        self.profiling = False
        """Show the stages to torch's profiler."""
        self.stage: str | None = None
        """That is under way; set by `enter` and `leave`."""
        self._since: _Moment = 0.0
        self._ended: deque[tuple[str, _Moment, _Moment]] = deque()
        self._range: AbstractContextManager[object] | None = None

    def enter(self, stage: str, *, shown: bool = True) -> None:
        """The stage begins, and the one before ends.

        Args:
            stage: one of STAGES.
            shown: as a range to profilers; not from autograd's thread, where ranges of this one cannot end.
        """
        now = self._now()
        self._end(now)
        self.stage, self._since = stage, now
        if shown:
            self._show(stage)

    def leave(self) -> None:
        """The stage ends, and none begins: what follows is no part of a step."""
        self._end(self._now())
        self.stage = None
        self._show(None)

    def take(self) -> dict[str, float]:
        """Seconds of each stage that has ended since the last call, without waiting for the device.

        What it has not done yet is told by a later call.
        """
        seconds: dict[str, float] = {}
        while self._ended and _is_over(self._ended[0][2]):
            stage, start, end = self._ended.popleft()
            seconds[stage] = seconds.get(stage, 0.0) + _between(start, end)
        return seconds

    def _end(self, now: _Moment) -> None:
        if self.stage is not None:
            self._ended.append((self.stage, self._since, now))

    def _now(self) -> _Moment:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _show(self, stage: str | None) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None
        if stage is None:
            return
        if self._nvtx:
            self._range = torch.cuda.nvtx.range(stage)
        elif self.profiling:
            self._range = torch.profiler.record_function(stage)
        if self._range is not None:
            self._range.__enter__()


def _is_over(moment: _Moment) -> bool:
    return isinstance(moment, float) or moment.query()


def _between(start: _Moment, end: _Moment) -> float:
    if isinstance(start, float) or isinstance(end, float):
        return float(end) - float(start)  # type: ignore[arg-type]  # a clock never mixes the two kinds
    return float(start.elapsed_time(end)) / 1000
