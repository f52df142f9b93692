"""Tasks in several processes."""

import multiprocessing
import os
from collections.abc import Iterator

import pytest
from pool_functions import killed, refused, squared

from pipelines.build.worker_pool import run_tasks
from pipelines.errors import DataError

Before = set[multiprocessing.process.BaseProcess]


@pytest.fixture
def before() -> Before:
    """Other tests' processes."""
    return set(multiprocessing.active_children())


def ignore(_count: int) -> None:
    """For tests that look at results alone."""


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_has_its_result_and_every_tick_is_heard(workers: int, before: Before) -> None:
    ticks: list[int] = []
    results = list(run_tasks(squared, range(20), workers, ticks.append))
    assert sorted(result for result, _ in results) == [number**2 for number in range(20)]
    assert sum(ticks) == sum(range(20))
    processes = {process for _, process in results}
    assert processes == {os.getpid()} if workers == 1 else os.getpid() not in processes
    assert set(multiprocessing.active_children()) == before


def test_tasks_are_made_only_when_a_process_is_free() -> None:
    made = 0

    def tasks() -> Iterator[int]:
        nonlocal made
        for number in range(20):
            made += 1
            yield number

    results = run_tasks(squared, tasks(), 2, ignore)
    for done, _ in enumerate(results, 1):
        assert made <= done + 3
    assert made == 20


def test_no_task_needs_no_process() -> None:
    assert list(run_tasks(squared, [], 4, ignore)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_task_raises_is_raised_here_and_ends_the_others(workers: int, before: Before) -> None:
    with pytest.raises(FileNotFoundError, match="somewhere"):
        list(run_tasks(refused, range(20), workers, ignore))
    assert set(multiprocessing.active_children()) == before


def test_a_process_that_dies_is_one_line(before: Before) -> None:
    with pytest.raises(
        DataError, match=r"^a worker process died \(SIGKILL\), perhaps for lack of memory; run the same"
    ):
        list(run_tasks(killed, range(20), 2, ignore))
    assert set(multiprocessing.active_children()) == before


def test_a_reader_that_stops_leaves_no_process(before: Before) -> None:
    results = run_tasks(squared, range(20), 2, ignore)
    next(results)
    assert len(set(multiprocessing.active_children()) - before) == 2
    results.close()
    assert set(multiprocessing.active_children()) == before
