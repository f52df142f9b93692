"""One run at a time in a run directory."""

import fcntl
import json
import os
import platform
from pathlib import Path
from types import TracebackType
from typing import IO

from train.errors import RunError

_NAME = ".lock"


class RunLock:
    """Held from `take` to the end of the `with` block.

    Or of the process, however it ends: the kernel lets go of it, also on network file systems (NFS 4).
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._file: IO[str] | None = None

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def take(self) -> None:
        """Take it, making the directory if it is missing.

        Raises:
            RunError: another process holds it, or the directory cannot be written to.
        """
        try:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            self._file = (self._run_dir / _NAME).open("a+")
        except OSError as error:
            raise RunError(
                f"run_dir = {self._run_dir}: {error.strerror}; name a directory that can be written to"
            ) from None
        try:
            # Not flock: a child that was forked while it was held would go on holding it.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"run_dir = {self._run_dir}: in use by {_holder(self._file)}; wait for its end, stop it, or give "
                "another --run_dir"
            ) from None
        except OSError as error:
            raise RunError(f"run_dir = {self._run_dir}: cannot be locked ({error.strerror})") from None
        holder = json.dumps({"pid": os.getpid(), "host": platform.node()}) + "\n"
        try:
            self._file.truncate(0)
            os.write(self._file.fileno(), holder.encode())  # nothing stays in a buffer that a full disk refuses
        except OSError as error:
            raise RunError(f"run_dir = {self._run_dir}: {error.strerror}; make room, or name another one") from None


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        content = json.loads(file.read())
        return f"process {content['pid']} on {content['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
