"""One remote shard -> its bytes, in order and checked, over a network that breaks."""

import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipelines.errors import DataError
from pipelines.remote.locations import file_system
from pipelines.remote.ranged_reads import fetch_ranges

# Large enough that the requests' latency does not show, small enough to lose little with a broken connection.
_PIECE_BYTES = 8 << 20


class FetchError(DataError):
    """A shard cannot be fetched; `reason` is `checksum`, `unreachable` or `closed`, as metrics count them."""

    def __init__(self, url: str, reason: str, text: str) -> None:
        super().__init__(f"{url}: {text}")
        self.url = url
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class RemoteShard:
    """One shard as the manifest describes it."""

    url: str
    bytes: int
    sha256: str
    """64 lower-case hexadecimal digits; the name of its copy, so that data sets with equal shards share copies."""

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise DataError(f"{self.url}: no sha256 in manifest.json ('{self.sha256}'); build the data set again")


def download_shard(
    shard: RemoteShard,
    write: Callable[[bytes, int], None],
    received: Callable[[int], None],
    stop: threading.Event,
) -> None:
    """Download a shard in pieces by range requests, so that a broken connection costs one piece, asked for again.

    Args:
        shard: to download.
        write: called with each piece and its position in bytes; from the start again if the first download is damaged.
        received: called with the number of bytes of each answer.
        stop: when it is set, the download is dropped within 0.1 s.

    Raises:
        FetchError: see its reasons.
        DataError: the URL's protocol is unknown or its package is not installed.
    """
    files = file_system(shard.url)
    for _ in range(2):  # damage may have come on the way: once more
        digest, position = hashlib.sha256(), 0
        while position < shard.bytes:
            data = _piece(files, shard, position, received, stop)
            if not data:
                break
            digest.update(data)
            write(data, position)
            position += len(data)
        if digest.hexdigest() == shard.sha256:
            return
    raise FetchError(
        shard.url,
        "checksum",
        f"its {shard.bytes} bytes are not those that manifest.json describes (sha256 differs); upload it again",
    )


def closed(shard: RemoteShard) -> FetchError:
    """What to raise when someone waits for a shard that will not come any more."""
    return FetchError(shard.url, "closed", "fetching it was stopped")


def _piece(
    files: Any, shard: RemoteShard, position: int, received: Callable[[int], None], stop: threading.Event
) -> bytes:
    """The next bytes of a shard; none where it ends too early."""
    end = min(position + _PIECE_BYTES, shard.bytes)
    (data,) = fetch_ranges(files, [(shard.url, position, end)], 1, stop)
    if isinstance(data, InterruptedError):
        raise closed(shard)
    if isinstance(data, OSError):
        advice = "check the address, the credentials and the network"
        raise FetchError(shard.url, "unreachable", f"{data.strerror}; {advice}")
    received(len(data))
    if len(data) > end - position:  # a server without range requests sends the whole file
        return data[position : shard.bytes]
    return data
