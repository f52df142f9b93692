"""Writes checkpoints in a thread of its own: training waits for a copy on the device, not for the disk."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipelines.loader import enter_device

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What became of one attempt."""

    step: int
    seconds: float
    """Of the thread."""
    bytes: int
    error: str | None
    """What the system said; None if the checkpoint is complete."""


@dataclass(kw_only=True)
class CheckpointWriter:
    """At most one checkpoint is under way: another one waits until it is done.

    A disk that is full or gone is no reason to stop learning: the attempt is counted, and the next one is up to the
    caller. Other errors are raised in the caller's thread when it next comes here.
    """

    device: torch.device
    """Of the tensors."""
    told: Callable[[Written], None]
    """Called after each attempt, in the caller's thread."""
    failures: int = 0
    """Attempts that failed, one after another, up to now."""
    last_error: str = ""
    failed_at: float = 0.0
    """On the monotonic clock, when the last of them ended."""
    _thread: threading.Thread | None = None
    _outcome: Written | BaseException | None = None
    _ready: "torch.cuda.Event | None" = field(default=None, init=False)

    def begin(self, step: int, size: int, write: Callable[[], None]) -> None:
        """Call `write` in the thread, once the one before is done.

        Args:
            step: updates made.
            size: bytes that will be written.
            write: writes tensors which nobody changes any more, to CUDA also by what is queued on the current stream.
        """
        self.finish()
        if self.device.type == "cuda":
            self._ready = torch.cuda.Event()
            self._ready.record()
        self._thread = threading.Thread(target=self._work, args=(step, size, write), name="checkpoint", daemon=True)
        self._thread.start()

    def collect(self) -> None:
        """Take note of what has been written in the meantime; does not wait."""
        if self._thread is not None and not self._thread.is_alive():
            self.finish()

    def finish(self) -> None:
        """Wait for what is under way."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        outcome, self._outcome = self._outcome, None
        if isinstance(outcome, BaseException):
            raise outcome
        assert outcome is not None  # noqa: S101  # the thread has left one or the other
        if outcome.error is None:
            self.failures = 0
        else:
            self.failures, self.last_error, self.failed_at = self.failures + 1, outcome.error, time.monotonic()
            logger.error(
                "the checkpoint of step %d could not be written (%s); training goes on, the one before is untouched",
                outcome.step,
                outcome.error,
            )
        self.told(outcome)

    def wants_retry(self, after_seconds: float) -> bool:
        """Whether the last attempt failed so long ago."""
        return bool(self.failures) and self._thread is None and time.monotonic() - self.failed_at >= after_seconds

    def _work(self, step: int, size: int, write: Callable[[], None]) -> None:
        start, error = time.perf_counter(), None
        try:
            if self._ready is not None:
                enter_device(self.device)
                torch.cuda.current_stream().wait_event(self._ready)
            write()
        except OSError as fault:
            error = str(fault)
        except BaseException as fault:  # noqa: BLE001  # raised again where the thread is joined
            self._outcome = fault
            return
        self._outcome = Written(step=step, seconds=time.perf_counter() - start, bytes=size, error=error)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same on the same device, in memory of their own."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def bytes_of(*groups: dict[str, Tensor]) -> int:
    """Together."""
    return sum(tensor.nbytes for tensors in groups for tensor in tensors.values())
