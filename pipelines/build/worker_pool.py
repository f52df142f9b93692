"""Tasks in several processes at once: results as they come, and no process left behind however it ends."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeVar, cast

from pipelines.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")
Tick = Callable[[int], object]
"""Called with the number of images done since the last call."""

TICK_SECONDS = 0.2


def run_tasks(
    function: Callable[[Task, Tick], Result], tasks: Iterable[Task], workers: int, tick: Tick
) -> Generator[Result, None, None]:
    """Call a function for each task; results come in any order.

    Workers are spawned, not forked, so that they hold nothing of this process, and each has one task at a time, so that
    tasks can be made while they are asked for. (`ProcessPoolExecutor` takes tasks in advance and leaves its workers
    alive when this process is killed; `multiprocessing.Pool` waits for ever for a worker that was killed.)

    Args:
        function: of a module, so that other processes find it.
        tasks: what it is called with.
        workers: processes; 1 stays in this one.
        tick: told of progress.

    Raises:
        DataError: a process died.
        Exception: what the function raised.
    """
    if workers <= 1:
        yield from (function(task, tick) for task in tasks)
        return
    busy: dict[Connection, SpawnProcess] = {}
    idle: list[tuple[Connection, SpawnProcess]] = []
    try:
        for task in tasks:
            if not idle and len(busy) < workers:
                idle.append(_started(function))
            while not idle:
                yield from _collect(busy, idle, tick)
            connection, process = idle.pop()
            busy[connection] = process
            with suppress(BrokenPipeError):  # it died; `_collect` will see
                connection.send(task)
        while busy:
            yield from _collect(busy, idle, tick)
    finally:
        started = [*busy.items(), *idle]
        for _, process in started:
            process.kill()
        for connection, process in started:
            process.join()
            connection.close()


def _started(function: Callable[[Task, Tick], object]) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function), daemon=True)
    # Ctrl-C reaches every process of a terminal, but the parent decides; what is blocked stays blocked in the child.
    resource_tracker.ensure_running()  # else `start` would begin it first, and that unblocks
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    theirs.close()
    return ours, process


def _collect(
    busy: dict[Connection, SpawnProcess], idle: list[tuple[Connection, SpawnProcess]], tick: Tick
) -> Iterator[Result]:
    """Wait for a message of any worker."""
    for ready in wait(list(busy)):
        connection = cast("Connection", ready)
        process = busy[connection]
        try:
            kind, content = connection.recv()
        except (EOFError, ConnectionResetError):
            process.join()
            raise DataError(
                f"a worker process died ({_death(process.exitcode)}), perhaps for lack of memory; run the same command "
                "again to go on, if need be with fewer --workers"
            ) from None
        if kind == "tick":
            tick(content)
            continue
        if kind == "error":
            raise content
        idle.append((connection, busy.pop(connection)))
        yield content


def _death(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit status {exit_code}"
    return signal.Signals(-exit_code).name


def _serve(connection: Connection, function: Callable[[Task, Tick], object]) -> None:
    """Life of a worker: it ends when the other end of its pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ticker = _Ticker(connection)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task = connection.recv()
            try:
                message = ("result", function(task, ticker))
            except BrokenPipeError:
                raise
            except Exception as error:  # noqa: BLE001  # raised again where it can be handled
                message = ("error", error)
            del task
            ticker.flush()
            connection.send(message)


class _Ticker:
    """Tells of progress now and then, and so notices soon when there is nobody left to tell."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._count = 0
        self._last = time.monotonic()

    def __call__(self, count: int) -> None:
        self._count += count
        if time.monotonic() - self._last > TICK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what was counted."""
        self._connection.send(("tick", self._count))
        self._count, self._last = 0, time.monotonic()
