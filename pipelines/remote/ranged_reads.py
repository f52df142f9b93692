"""Parts of remote files, many at once: for data far larger than the disk, or windows that need few samples of a shard.

Nothing is merged: a range is a request. On S3 a request costs money and tens of milliseconds, so many run at
once.
"""

import asyncio
import concurrent.futures
import errno
import threading
from collections.abc import Sequence
from typing import Any

from pipelines.remote.locations import TRIES, as_os_error, file_system, is_lasting, is_past_end, pause_seconds

_RANGE_SECONDS = 60.0
_CHECK_SECONDS = 0.1


def read_ranges(
    urls: Sequence[str],
    starts: Sequence[int],
    ends: Sequence[int],
    *,
    concurrency: int = 64,
    stop: threading.Event | None = None,
) -> list[bytes | OSError]:
    """Bytes starts[i] to ends[i] - 1 of urls[i], for all i.

    Args:
        urls: of the files; one may come again and again.
        starts: in bytes.
        ends: in bytes, exclusive.
        concurrency: requests under way at once. File systems that fsspec cannot run asynchronously, such as sftp, are
            asked one by one.
        stop: when it is set, the requests under way are dropped within 0.1 s.

    Returns:
        The bytes of each range, or why they could not be had after up to TRIES tries: FileNotFoundError,
        PermissionError, TimeoutError, InterruptedError after `stop`, or OSError. Fewer or more bytes than were asked
        for count as a failure: the file is shorter, or its server does not know ranges.

    Raises:
        DataError: a URL's protocol is unknown or its package is not installed.
    """
    systems = {url: file_system(url) for url in dict.fromkeys(urls)}
    places_of: dict[int, list[int]] = {}
    for place, url in enumerate(urls):
        places_of.setdefault(id(systems[url]), []).append(place)
    answers: dict[int, bytes | OSError] = {}
    for places in places_of.values():
        ranges = [(urls[place], starts[place], ends[place]) for place in places]
        came = fetch_ranges(systems[urls[places[0]]], ranges, concurrency, stop)
        answers |= zip(places, map(_whole, ranges, came), strict=True)
    return [answers[place] for place in range(len(urls))]


def fetch_ranges(
    files: Any, ranges: Sequence[tuple[str, int, int]], concurrency: int, stop: threading.Event | None
) -> list[bytes | OSError]:
    """As `read_ranges`, of one file system, but with whatever number of bytes came: none behind the end of a file."""
    stop = stop or threading.Event()
    if not files.async_impl:
        return [_fetch(files, *wanted, stop) for wanted in ranges]
    task = asyncio.run_coroutine_threadsafe(_fetch_all(files, ranges, concurrency), files.loop)
    try:
        while not concurrent.futures.wait([task], timeout=_CHECK_SECONDS).done:
            if stop.is_set():
                return [_stopped() for _ in ranges]
        return task.result()
    finally:
        task.cancel()


async def _fetch_all(files: Any, ranges: Sequence[tuple[str, int, int]], concurrency: int) -> list[bytes | OSError]:
    gate = asyncio.Semaphore(concurrency)

    async def fetch(url: str, start: int, end: int) -> bytes | OSError:
        if start == end:
            return b""
        tries = 0
        while True:
            try:
                async with gate:
                    request = files._cat_file(url, start=start, end=end)
                    return bytes(await asyncio.wait_for(request, _RANGE_SECONDS))
            except Exception as error:  # noqa: BLE001  # every protocol's library has exceptions of its own
                if is_past_end(error):
                    return b""
                tries += 1
                if is_lasting(error) or tries == TRIES:
                    return as_os_error(error)
            await asyncio.sleep(pause_seconds(f"{url} {start}", tries))

    return await asyncio.gather(*(fetch(*wanted) for wanted in ranges))


def _fetch(files: Any, url: str, start: int, end: int, stop: threading.Event) -> bytes | OSError:
    if start == end:
        return b""
    tries = 0
    while not stop.is_set():
        try:
            return bytes(files.cat_file(url, start=start, end=end))
        except Exception as error:  # noqa: BLE001  # every protocol's library has exceptions of its own
            tries += 1
            if is_lasting(error) or tries == TRIES:
                return as_os_error(error)
        stop.wait(pause_seconds(f"{url} {start}", tries))
    return _stopped()


def _whole(wanted: tuple[str, int, int], came: bytes | OSError) -> bytes | OSError:
    _, start, end = wanted
    if isinstance(came, OSError) or len(came) == end - start:
        return came
    if len(came) < end - start:
        return OSError(errno.EIO, f"the file ends before byte {end}")
    return OSError(errno.EIO, "the server does not know range requests; use the shard cache")


def _stopped() -> InterruptedError:
    return InterruptedError(errno.EINTR, "stopped")
