"""A remote file read from front to back, which goes on where it stood when the network fails for a while."""

import time
from types import TracebackType
from typing import Any, Self

from pipelines.remote.locations import TRIES, as_os_error, file_system, is_lasting, pause_seconds

READ_BYTES = 1 << 23
"""Of one request."""


class RemoteStream:
    """A file behind a URL, opened at the first read."""

    def __init__(self, location: str) -> None:
        """Raises DataError, see `file_system`."""
        self._location = location
        self._files = file_system(location)
        self._file: Any = None
        self._position = 0

    def read(self, size: int) -> bytes:
        """At most so many bytes, none only at the end.

        Raises:
            OSError: the file cannot be read, after TRIES tries where that may help.
        """
        tries = 0
        while True:
            try:
                if self._file is None:
                    self._file = self._files.open(self._location, "rb", block_size=READ_BYTES)
                    if self._position:
                        self._file.seek(self._position)
                data: bytes = self._file.read(size)
            except Exception as error:  # every protocol's library has exceptions of its own
                self._close()
                tries += 1
                if is_lasting(error) or tries == TRIES:
                    raise as_os_error(error) from error
                time.sleep(pause_seconds(f"{self._location} {self._position}", tries))
            else:
                self._position += len(data)
                return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
