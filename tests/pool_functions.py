"""What the processes of a pool are asked to do in tests; a child imports this module by name."""

import os
import signal

from pipelines.build.worker_pool import Tick


def squared(number: int, tick: Tick) -> tuple[int, int]:
    """The square, and who computed it."""
    tick(number)
    return number * number, os.getpid()


def refused(number: int, tick: Tick) -> int:
    if number == 3:
        raise FileNotFoundError(2, "No such file or directory", "somewhere")
    tick(1)
    return number


def killed(number: int, tick: Tick) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    tick(1)
    return number
