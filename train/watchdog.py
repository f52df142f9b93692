"""A run that does not move is ended, with the stacks of all threads and the ranks that are missing."""

import faulthandler
import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from train.config import TimeoutsConfig
from train.ranks import Ranks

_BEAT_SECONDS = 1.0
_LOST_BEATS = 5
"""A rank that says nothing for so many is missing."""
_STORE_SECONDS = 10.0
_ROOT = f"{Path(__file__).resolve().parents[1]}/"
_STDERR = 2
"""As a descriptor: it is there whatever has become of sys.stderr."""
EXIT_STALLED = 70
"""Exit status of a stalled run (sysexits.h: internal software error)."""


@dataclass(frozen=True)
class _Beat:
    """What a rank says once a second."""

    number: int = -1
    step: int = -1
    place: str = "its start"


class Watchdog:
    """Tells all ranks once a second that this one lives and which step it is at, and watches its own steps.

    A thread that cannot run, because another one keeps the interpreter to itself, is watched by the standard library's
    faulthandler, which needs none.
    """

    def __init__(self, ranks: Ranks, timeouts: TimeoutsConfig, run_dir: Path) -> None:
        """Begin, with the time limit of the start."""
        self._ranks, self._timeouts, self._run_dir = ranks, timeouts, run_dir
        self._step, self._since = 0, time.monotonic()
        self._limit, self._limit_name = timeouts.startup_seconds, "timeouts.startup_seconds"
        self._dumped = False
        self._end = threading.Event()
        self._store = ranks.store.clone() if ranks.store is not None else None  # a connection of its own
        if self._store is not None:
            self._store.set_timeout(timedelta(seconds=_STORE_SECONDS))
        self._number = 0
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def at_step(self, step: int) -> None:
        """The run has come so far; the next step may take as long as a step may."""
        self._step, self._since, self._dumped = step, time.monotonic(), False
        shorter = self._limit_name != "timeouts.step_seconds"
        self._limit, self._limit_name = self._timeouts.step_seconds, "timeouts.step_seconds"
        if shorter:
            self._set_timer()  # the thread may not run again

    def allow_startup_time(self) -> None:
        """What follows is no step and may take as long as the start."""
        self._since, self._dumped = time.monotonic(), False
        self._limit, self._limit_name = self._timeouts.startup_seconds, "timeouts.startup_seconds"

    def missing(self) -> str:
        """Which ranks say nothing, or are behind; waits a few seconds to find out. Empty if all are well."""
        if self._ranks.store is None:
            return ""
        others = [rank for rank in range(self._ranks.world_size) if rank != self._ranks.rank]
        try:
            before = {rank: self._said(rank) for rank in others}
            for _ in range(_LOST_BEATS):
                time.sleep(_BEAT_SECONDS)
                self._send_beat()  # this may be the thread that does so
            after = {rank: self._said(rank) for rank in others}
        except RuntimeError:
            return "the store does not answer: the launcher, or rank 0 where there is none, is gone"
        silent = [rank for rank in others if before[rank].number == after[rank].number]
        behind = [rank for rank in others if rank not in silent and after[rank].step < self._step]
        told = [f"rank {rank}, last heard of at step {after[rank].step}, does not answer" for rank in silent]
        told += [f"rank {rank} is still at step {after[rank].step}, in {after[rank].place}" for rank in behind]
        return "; ".join(told)

    def _places(self) -> str:
        """What each rank is doing, where all live and none is behind."""
        if self._ranks.store is None:
            return f"it is in {_place()}"
        try:
            beats = [self._said(rank) for rank in range(self._ranks.world_size)]
        except RuntimeError:
            return ""
        return "all ranks live: " + ", ".join(f"rank {rank} is in {beat.place}" for rank, beat in enumerate(beats))

    def _said(self, rank: int) -> "_Beat":
        if self._store is None:
            raise RuntimeError("the store does not answer")
        key = f"beat/{rank}"
        return _Beat(*json.loads(self._store.get(key))) if self._store.check([key]) else _Beat()

    def _send_beat(self) -> None:
        if self._store is not None:
            self._number += 1
            self._store.set(f"beat/{self._ranks.rank}", json.dumps([self._number, self._step, _place()]))

    def _set_timer(self) -> None:
        """End the process when that time has passed without another call."""
        faulthandler.dump_traceback_later(self._limit + self._timeouts.stack_seconds, exit=True, file=_STDERR)

    def _watch(self) -> None:
        while not self._end.wait(_BEAT_SECONDS):
            self._set_timer()
            try:
                self._send_beat()
            except RuntimeError:  # the launcher is gone; the next collective, or the time limit, will tell
                self._store = None
            waited = time.monotonic() - self._since
            if waited > min(self._timeouts.stack_seconds, self._limit) and not self._dumped:
                self._dumped = True
                self._dump(waited)
            if waited > self._limit:
                self._stop(waited)

    def _dump(self, waited: float) -> None:
        said = f"rank {self._ranks.rank} has been at step {self._step} for {waited:.0f} s; stacks of its threads:"
        print(f"pretrain: warning: {said}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=_STDERR, all_threads=True)
        try:
            directory = self._run_dir / "stalled"
            directory.mkdir(exist_ok=True)
            with (directory / f"rank-{self._ranks.rank}.txt").open("w") as file:
                file.write(f"{said}\n")
                file.flush()
                faulthandler.dump_traceback(file=file, all_threads=True)
        except OSError:  # it stands on stderr as well
            return

    def _stop(self, waited: float) -> None:
        # The others' threads go on for a moment, whoever comes first, so that all can ask who is missing.
        places = self._places()
        missing = self.missing() or places
        who = f"; {missing}" if missing else ""
        print(
            f"pretrain: error: rank {self._ranks.rank} has been at step {self._step} for {waited:.0f} s, more than "
            f"{self._limit_name} = {self._limit:g}{who}; the same command goes on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_STALLED)  # the main thread hangs in a call that nothing interrupts


def _place() -> str:
    """The innermost line of ours that the main thread is in."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and not _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return "its start"
    return f"{frame.f_code.co_filename.removeprefix(_ROOT)}:{frame.f_lineno} ({frame.f_code.co_name})"


def _is_ours(file: str) -> bool:
    return file.startswith(_ROOT) and "site-packages" not in file
