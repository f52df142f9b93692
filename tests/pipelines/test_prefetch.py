import threading
import time
from collections.abc import Iterator

import pytest

from pipelines.prefetch import Prefetch


def prefetch_threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def test_items_come_in_order_and_the_thread_ends() -> None:
    with Prefetch(iter(range(20)), depth=3) as ahead:
        assert list(ahead) == list(range(20))
    assert prefetch_threads() == 0


def test_the_source_runs_ahead_by_its_depth_and_no_further() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    with Prefetch(source(), depth=3) as ahead:
        assert next(iter(ahead)) == 0
        deadline = time.monotonic() + 5
        while len(made) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(made) == 5  # one taken, three in the queue, one in hand
        assert ahead.occupancy().ready == 3
        assert next(iter(ahead)) == 1
        while len(made) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ahead.occupancy().blocked_seconds >= 0.05


def test_an_exception_of_the_source_is_raised_after_the_items_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    seen = []
    with pytest.raises(ValueError, match="broken"), Prefetch(source(), depth=2) as ahead:
        for item in ahead:
            seen.append(item)  # noqa: PERF402  # extend would lose what came before the exception
    assert seen == [1]


def test_leaving_early_stops_the_thread_and_closes_the_source() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    with pytest.raises(KeyboardInterrupt), Prefetch(source(), depth=2) as ahead:
        for _ in ahead:
            raise KeyboardInterrupt
    assert prefetch_threads() == 0
    assert closed.wait(5)


def test_whoever_waits_for_an_item_can_give_up_and_come_back() -> None:
    ready, tired = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        ready.wait(10)
        yield 1

    with Prefetch(source(), depth=1) as ahead:
        tired.set()
        assert ahead.take(give_up=tired.is_set) is None
        ready.set()
        assert ahead.take() == 1
        assert ahead.take() is None  # the end
