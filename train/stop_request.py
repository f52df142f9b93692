"""Signals that ask a run to stop: it finishes its step, saves and exits with a status that says so."""

import ctypes
import os
import signal
import threading
import time
from pathlib import Path

from train.distributed import ancestors_words

EX_TEMPFAIL = 75
"""Exit status of a run that was asked to stop and can be resumed (sysexits.h: try again later)."""
_ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_LAUNCHER_DIED = signal.SIGUSR2
_SET_BY_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "ACCELERATE_DYNAMO_BACKEND")
_ECHO_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Asked for by SIGTERM, SIGINT or SIGUSR1, or by the death of the launcher.

    Until `begin_training` there is nothing to save, and the process exits at once. After it the first signal is
    remembered and a second one exits at once. One within two seconds is taken for an echo of the first: a terminal's
    Ctrl-C reaches both launcher and ranks, and the launcher passes it on.
    """

    def __init__(self) -> None:
        """Install the handlers; call in the main thread.

        What is to be done is done in a thread of its own: Python would wait until the main thread comes back from
        whatever it is in, such as a collective that never ends.
        """
        self.asked_by = ""
        """Name of the first signal; empty as long as there was none."""
        self._asked_at = 0.0
        self._training = False
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        threading.Thread(target=self._listen, args=(reader,), name="signals", daemon=True).start()
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # its signals are not for us
        for number in (*_ASKING, _LAUNCHER_DIED):
            signal.signal(number, lambda *_: None)

    @property
    def asked(self) -> bool:
        """Whether the run is to stop at the next step boundary."""
        return bool(self.asked_by)

    def begin_training(self) -> None:
        """From now on there is something to save."""
        self._training = True

    def _listen(self, reader: int) -> None:
        while True:
            for number in os.read(reader, 16):
                if number in (*_ASKING, _LAUNCHER_DIED):
                    self._handle(number)

    def _handle(self, number: int) -> None:
        name = "the end of the launcher" if number == _LAUNCHER_DIED else signal.Signals(number).name
        now = time.monotonic()
        if not self._training:
            _exit(f"pretrain: {name} before the first step; the same command begins again", EX_TEMPFAIL)
        if not self.asked:
            self.asked_by, self._asked_at = name, now
        elif number != _LAUNCHER_DIED and now - self._asked_at > _ECHO_SECONDS:
            _exit(f"pretrain: {name} again; not waiting for a checkpoint", 128 + number)


def stop_with_launcher() -> None:
    """Ask the kernel for a signal when the launcher dies, which otherwise leaves its ranks behind as orphans.

    If it is dead already, the process exits. Launchers are Python programs: who was started by one, and has none among
    its ancestors, is an orphan.
    """
    ancestors = ancestors_words()
    if "TORCHELASTIC_RUN_ID" in os.environ or "launch" in next(ancestors, []):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _LAUNCHER_DIED)
    if any(name in os.environ for name in _SET_BY_LAUNCHERS) and not any(map(_is_python, ancestors_words())):
        _exit("pretrain: the launcher is gone", EX_TEMPFAIL)


def _is_python(words: list[str]) -> bool:
    return Path(words[0]).name.startswith("python")


def _exit(message: str, status: int) -> None:
    """End this process at once: no locks are taken, nothing is flushed that might be half done."""
    os.write(2, f"{message}\n".encode())
    os._exit(status)
