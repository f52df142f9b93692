"""A directory of files named by their hash, with a cap on its bytes, shared by the processes of a node.

    DIR/SHA256        a complete file; whoever reads it holds a shared flock on it; its mtime is its last use
    DIR/SHA256.part   being written by the holder of the exclusive flock on it; of full size at once, as a reservation
    DIR/lock          flock: held while files are counted, evicted and renamed

The kernel drops the locks of a process that dies, so that its unfinished files are recognised and removed. The
directory has to be on a disk of the node: not every network file system keeps flock, and files unlinked while open.
"""

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.errors import DataError

_PART = ".part"
_NAME = re.compile(r"[0-9a-f]{64}(?P<part>\.part)?")
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}


class CacheDirectory:
    """Knows nothing of where files come from."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with self._alone():
                self._files()  # removes what a killed process left
        except OSError as error:
            raise DataError(f"data.cache_dir: {directory}: {error.strerror}; name another directory") from None

    def open(self, sha256: str, size: int) -> int | None:
        """Return a descriptor for reading, or None if the file is not there. A file of another size is removed.

        The descriptor holds a shared flock, which marks the file as in use until the descriptor is closed.
        """
        path = self._directory / sha256
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_size == size:
            _touch(descriptor)
            return descriptor
        self.discard(sha256, descriptor)
        os.close(descriptor)
        return None

    def claim(self, sha256: str) -> int | None:
        """Return a descriptor of an empty file to write, to be handed to `commit` or `abandon`.

        None while another thread or process writes this file, or has just finished it.
        """
        with self._alone():  # so that nobody takes it for a dead process's before it is locked
            path = self._part(sha256)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not _lock_if_free(descriptor) or not _is_at(path, descriptor):  # at work, or renamed just now
                os.close(descriptor)
                return None
            if (self._directory / sha256).exists():
                self.abandon(sha256, descriptor)
                return None
            os.ftruncate(descriptor, 0)
            return descriptor

    def reserve(self, claimed: int, size: int, keep: Sequence[str], *, urgent: bool) -> bool:
        """Make room for a claimed file by evicting those that were opened least recently.

        Args:
            claimed: descriptor.
            size: in bytes, at most the cap.
            keep: hashes that will be wanted, the next one first.
            urgent: evict files in `keep`, last ones first, and files in use, if nothing else is left. The disk space
                of a file in use is free once its readers have closed it.

        Returns:
            False, with nothing evicted that would not have made room, where files that may not be evicted fill the cap.
        """
        with self._alone():
            complete, reserved = self._files()
            total = sum(complete.values()) + reserved
            doomed = []
            for sha256 in self._evictable(complete, keep, urgent=urgent):
                if total + size <= self._max_bytes:
                    break
                doomed.append(sha256)
                total -= complete[sha256]
            if total + size > self._max_bytes:
                return False
            for sha256 in doomed:
                (self._directory / sha256).unlink(missing_ok=True)
            os.ftruncate(claimed, size)
            return True

    def write(self, claimed: int, data: bytes, position: int, keep: Sequence[str]) -> None:
        """Write at a position of a claimed file; on a full disk, evict and try again.

        Raises:
            DataError: the disk is full and no file is left to evict.
            OSError: it refuses for another reason.
        """
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(claimed, view, position)
            except OSError as error:
                if error.errno not in _FULL_DISK:
                    raise
                if not self._evict_one(keep):
                    raise DataError(
                        f"{self._directory}: the disk is full; free space there, lower data.shard_cache_bytes = "
                        f"{self._max_bytes}, or name another directory in data.cache_dir"
                    ) from None
                continue
            view, position = view[written:], position + written

    def commit(self, sha256: str, claimed: int) -> int:
        """Give a completely written file its name and return a descriptor as `open` does."""
        part = self._part(sha256)
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        with self._alone():  # whoever counts must not miss the file for its change of name
            part.rename(self._directory / sha256)
        os.close(claimed)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _touch(descriptor)
        return descriptor

    def abandon(self, sha256: str, claimed: int) -> None:
        """Remove an unfinished file."""
        self._part(sha256).unlink(missing_ok=True)
        os.close(claimed)

    def discard(self, sha256: str, descriptor: int) -> None:
        """Remove the file that a descriptor from `open` reads, unless another has taken its place already."""
        with self._alone():
            path = self._directory / sha256
            if _is_at(path, descriptor):
                path.unlink()

    def _part(self, sha256: str) -> Path:
        return self._directory / (sha256 + _PART)

    def _files(self) -> tuple[dict[str, int], int]:
        """Bytes of each complete file, the one opened least recently first; bytes reserved for unfinished ones."""
        complete, reserved = [], 0
        for entry in os.scandir(self._directory):
            name = _NAME.fullmatch(entry.name)  # files of others are none of our business
            with suppress(FileNotFoundError):  # abandoned meanwhile
                if name and name["part"]:
                    reserved += _bytes_unless_dead(entry.path)
                elif name:
                    status = entry.stat()
                    complete.append((status.st_mtime_ns, entry.name, status.st_size))
        return {name: size for _, name, size in sorted(complete)}, reserved

    def _evictable(self, complete: dict[str, int], keep: Sequence[str], *, urgent: bool) -> Iterator[str]:
        wanted, used = set(keep), []
        for sha256 in complete:
            if sha256 not in wanted:
                if self._in_use(sha256):
                    used.append(sha256)
                else:
                    yield sha256
        if urgent:
            for sha256 in reversed(keep):
                if sha256 in complete:
                    if self._in_use(sha256):
                        used.append(sha256)
                    else:
                        yield sha256
            yield from used

    def _evict_one(self, keep: Sequence[str]) -> bool:
        with self._alone():
            sha256 = next(self._evictable(self._files()[0], keep, urgent=True), None)
            if sha256 is not None:
                (self._directory / sha256).unlink(missing_ok=True)
        return sha256 is not None

    def _in_use(self, sha256: str) -> bool:
        try:
            descriptor = os.open(self._directory / sha256, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _lock_if_free(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the directory's lock; for moments only."""
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _lock_if_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _bytes_unless_dead(path: str) -> int:
    """Size of an unfinished file; one whose writer has died is removed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if not _lock_if_free(descriptor):
            return os.fstat(descriptor).st_size
        if _is_at(Path(path), descriptor):
            Path(path).unlink()
        return 0
    finally:
        os.close(descriptor)


def _touch(descriptor: int) -> None:
    now = time.time_ns()  # finer than the kernel's own time stamps
    os.utime(descriptor, ns=(now, now))
