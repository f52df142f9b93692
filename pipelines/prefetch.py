"""Run an iterator ahead of its consumer, in a thread of its own."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
_END = object()
_POLL_SECONDS = 0.2
"""Between two looks at whether to give up waiting."""


@dataclass(frozen=True, kw_only=True)
class Occupancy:
    """Who waits for whom."""

    ready: int
    """Items waiting to be consumed."""
    blocked_seconds: float
    """In which the thread has so far waited for the consumer to make room."""


class Prefetch(Generic[T]):
    """Iterates over `source` in a thread, up to `depth` items ahead.

    An exception of the source is raised where its item would have come. Leaving the `with` block, for whatever reason,
    sets `stop`, so that a source that waits for the network can give up, ends the thread and waits for it.
    """

    def __init__(self, source: Iterator[T], depth: int, stop: threading.Event | None = None) -> None:
        self._source = source
        self._blocked_seconds = 0.0
        self._queue: queue.Queue[object] = queue.Queue(maxsize=depth)
        self._stop = stop or threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Prefetch[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        while self._thread.is_alive():  # make room, should the thread be waiting to put
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while (item := self.take()) is not None:
            yield item

    def take(self, give_up: Callable[[], bool] = lambda: False) -> T | None:
        """Wait for the next item; None at the end of the source, and when it is time to give up."""
        while True:
            try:
                item = self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if give_up():
                    return None
                continue
            if item is _END:
                return None
            if isinstance(item, BaseException):
                raise item
            return item  # type: ignore[return-value]  # a queue of T, of one exception, or of the end

    def occupancy(self) -> Occupancy:
        """How the two sides stand to each other."""
        return Occupancy(ready=self._queue.qsize(), blocked_seconds=self._blocked_seconds)

    def _work(self) -> None:
        try:
            for item in self._source:
                start = time.perf_counter()
                self._queue.put(item)
                self._blocked_seconds += time.perf_counter() - start
                if self._stop.is_set():
                    return
            self._queue.put(_END)
        except BaseException as error:  # noqa: BLE001  # handed to the consumer, who decides
            self._queue.put(error)
        finally:
            if isinstance(self._source, Generator):
                self._source.close()  # in this thread, where its files and devices were opened
