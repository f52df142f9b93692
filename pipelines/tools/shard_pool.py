"""A function over many shards: in this process, or in several at once."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from pipelines.build.worker_pool import Tick, run_tasks

BYTES_PER_PROCESS = 1 << 24
"""Less takes no longer than the start of a process."""

Work = TypeVar("Work")
Result = TypeVar("Result")


def over_shards(
    function: Callable[[Work], Result], works: Sequence[Work], *, total_bytes: int | None, workers: int, title: str
) -> Iterator[Result]:
    """Results in the order of the works, with a progress bar on a terminal.

    Args:
        function: of a module, so that other processes find it.
        works: what each call is given.
        total_bytes: of all shards, or None if that is unknown.
        workers: processes at most; one, or little to read, stays in this one.
        title: of the progress bar.

    Raises:
        DataError: a process died.
        Exception: what the function raised.
    """
    useful = len(works) if total_bytes is None else min(len(works), 1 + total_bytes // BYTES_PER_PROCESS)
    tasks = ((function, number, work) for number, work in enumerate(works))
    early: dict[int, Result] = {}
    following = 0
    with tqdm(total=len(works), desc=title, unit=" shards", leave=False, disable=not sys.stderr.isatty()) as bar:
        for done, result in run_tasks(_numbered, tasks, min(workers, useful), tick=lambda _: None):
            bar.update()
            early[done] = result
            while following in early:
                yield early.pop(following)
                following += 1


def _numbered(task: tuple[Callable[[Work], Result], int, Work], tick: Tick) -> tuple[int, Result]:  # noqa: ARG001
    function, number, work = task
    return number, function(work)
