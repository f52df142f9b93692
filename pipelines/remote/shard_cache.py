"""Remote shards, copied to a local directory shard by shard: read ahead, checked by hash, kept while there is room.

    read_ahead([a, b, c])   threads:  b c -> ranged requests -> SHA.part -> hash? -> SHA
    open(a)                 caller:   a there? else fetched now, or waited for where another thread or process has it

The ranks of a node share the directory (cache_directory.py): one fetches a shard, the others wait for it.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import DataError
from pipelines.remote.cache_directory import CacheDirectory
from pipelines.remote.shard_download import FetchError, RemoteShard, closed, download_shard

__all__ = ["FetchError", "RemoteShard", "ShardCache"]

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.01
_FULL_SECONDS = 0.5
_FAILED_SECONDS = 60.0


class ShardCache:
    """Copies of remote shards in a directory of the node.

    Made in the process that uses it, after any fork. Safe to call from several threads.

    Args:
        directory: on a local disk; made if it is missing. Several processes, data sets and runs may share it.
        max_bytes: cap on all files in it, those being written included. A shard that is evicted while someone has it
            open takes up its space until it is closed.
        threads: shards that this process reads ahead at a time.
        stop: when it is set, `open` gives up within 0.1 s; without it, when the cache is closed.

    Raises:
        DataError: the directory cannot be written to.
    """

    def __init__(self, directory: Path, max_bytes: int, threads: int = 4, stop: threading.Event | None = None) -> None:
        self._path = directory
        self._directory = CacheDirectory(directory, max_bytes)
        self._max_bytes = max_bytes
        self._closing = threading.Event()
        self._stop = stop or self._closing
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._wished: tuple[str, ...] = ()  # protected from eviction
        self._ahead: list[RemoteShard] = []  # of these, not yet looked at; the next one last
        self._failures: dict[str, tuple[FetchError, float]] = {}
        self._counts = {"hits": 0, "fetches": 0, "bytes": 0}
        self._threads = [
            threading.Thread(target=self._work, name=f"shard-cache-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def hits(self) -> int:
        """Calls of `open` that found a complete copy."""
        return self._counts["hits"]

    @property
    def fetches(self) -> int:
        """Shards that this process has fetched, when opened or ahead."""
        return self._counts["fetches"]

    @property
    def bytes_fetched(self) -> int:
        """Bytes that this process has received, those of damaged downloads included, those of broken requests not."""
        return self._counts["bytes"]

    def open(self, shard: RemoteShard) -> int:
        """Return a descriptor of a complete copy, read-only; blocks until there is one. The caller closes it.

        A copy that is there already is trusted if its size is right: it was hashed when it was written.

        Raises:
            FetchError: `unreachable`: missing, forbidden, or failing through all tries; `checksum`: not the bytes that
                the manifest describes, twice; `closed`: it was stopped or closed meanwhile. Raised again at once for a
                minute, because a shard has many samples.
            DataError: the shard is larger than the cap, the disk is full, or the directory fails.
        """
        if shard.bytes > self._max_bytes:
            raise DataError(
                f"{shard.url}: {shard.bytes} bytes, more than data.shard_cache_bytes = {self._max_bytes}; allow more"
            )
        with self._storage_errors():
            descriptor = self._directory.open(shard.sha256, shard.bytes)
        if descriptor is not None:
            self._count("hits", 1)
            return descriptor
        failure, failed_at = self._failures.get(shard.sha256, (None, 0.0))
        if failure is not None and time.monotonic() < failed_at + _FAILED_SECONDS:
            raise failure.with_traceback(None)
        while not self._stop.is_set():
            try:
                descriptor, claimed = self._open_or_claim(shard, urgent=True)
                if claimed is not None:
                    descriptor = self._fetch(shard, claimed, self._stop)
                if descriptor is not None:
                    return descriptor
            except _NoRoomError:
                logger.debug("%s waits for room in %s", shard.url, self._path)
            except FetchError as error:
                self._failures[shard.sha256] = error, time.monotonic()
                raise
            self._stop.wait(_POLL_SECONDS)
        raise closed(shard)

    def read_ahead(self, shards: Sequence[RemoteShard]) -> None:
        """Replace the list of shards that will be wanted, the next one first.

        Threads fetch them in this order as long as there is room. What is on the list is evicted only for a shard that
        is being opened, and what another process is fetching already is left to it. A failure is logged, and tried
        again by `open`.
        """
        with self._changed:
            unique = {shard.sha256: shard for shard in shards if shard.bytes <= self._max_bytes}
            self._wished = tuple(unique)
            self._ahead = list(reversed(unique.values()))
            self._changed.notify_all()

    def discard(self, shard: RemoteShard, descriptor: int) -> None:
        """Drop the copy that this descriptor of `open` reads, because its bytes went bad; `open` fetches a new one.

        A copy that has replaced it meanwhile stays. The caller still closes the descriptor.
        """
        with self._storage_errors():
            self._directory.discard(shard.sha256, descriptor)

    def close(self) -> None:
        """Stop all downloads and wait for the threads; copies stay for the next run."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                with self._turn:  # one thread after the other, so that shards get room in the order of the list
                    shard, claimed = self._claim_next()
                if claimed is not None:
                    os.close(self._fetch(shard, claimed, self._closing))
            except _NoRoomError:
                continue
            except DataError as error:
                if not self._closing.is_set():
                    logger.warning("read ahead: %s", error)

    def _claim_next(self) -> tuple[RemoteShard, int | None]:
        with self._changed:
            self._changed.wait_for(lambda: self._ahead or self._closing.is_set())
            if self._closing.is_set():
                raise _NoRoomError
            shard, wished = self._ahead.pop(), self._wished
        try:
            descriptor, claimed = self._open_or_claim(shard, urgent=False)
        except _NoRoomError:
            with self._changed:
                if self._wished is wished:  # else it is in the new list, where it belongs
                    self._ahead.append(shard)
                    self._changed.wait(_FULL_SECONDS)
            raise
        if descriptor is not None:
            os.close(descriptor)
        return shard, claimed

    def _open_or_claim(self, shard: RemoteShard, *, urgent: bool) -> tuple[int | None, int | None]:
        """A descriptor of the complete copy, or one to write it to, or neither: another thread or process is at it."""
        with self._storage_errors():
            descriptor = self._directory.open(shard.sha256, shard.bytes)
            claimed = self._directory.claim(shard.sha256) if descriptor is None else None
            if claimed is None:
                return descriptor, None
            try:
                if not self._directory.reserve(claimed, shard.bytes, self._wished, urgent=urgent):
                    raise _NoRoomError
            except BaseException:
                self._directory.abandon(shard.sha256, claimed)
                raise
            return None, claimed

    def _fetch(self, shard: RemoteShard, claimed: int, stop: threading.Event) -> int:
        """Fill a claimed file and return a descriptor to read it."""
        with self._storage_errors():
            try:
                download_shard(
                    shard,
                    write=lambda data, position: self._directory.write(claimed, data, position, self._wished),
                    received=lambda size: self._count("bytes", size),
                    stop=stop,
                )
            except BaseException:
                self._directory.abandon(shard.sha256, claimed)
                raise
            self._count("fetches", 1)
            return self._directory.commit(shard.sha256, claimed)

    def _count(self, what: str, more: int) -> None:
        with self._changed:
            self._counts[what] += more

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"data.cache_dir: {self._path}: {error.strerror}; name another directory") from error


class _NoRoomError(Exception):
    """Files that may not be evicted fill the cache."""
