"""Encoded images by sample id: read by offset from the shards, checked by CRC."""

import logging
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from zlib_ng.zlib_ng import crc32  # zlib's numbers, 4 to 14 times as fast

from pipelines.config import DataConfig
from pipelines.encoded import EncodedBatch, make_room
from pipelines.errors import DataError
from pipelines.manifest import MAX_PIXELS, SplitIndex
from pipelines.order import IdArray
from pipelines.remote.locations import is_remote
from pipelines.remote.ranged_reads import read_ranges
from pipelines.remote.shard_cache import FetchError, RemoteShard, ShardCache

logger = logging.getLogger(__name__)

# Window shuffling keeps few shards in use; an unbounded set would meet the usual limit of 1,024 open files.
_OPEN_SHARDS = 256


class Store:
    """Reads one split, from local shards, from local copies of remote ones, or by ranged requests.

    `os.pread` into memory of our own, never mmap: a shard that shrinks, or a network mount that fails, would kill the
    process with SIGBUS.
    """

    def __init__(self, split: SplitIndex, data: DataConfig, stop: threading.Event | None = None) -> None:
        """Open nothing yet.

        Args:
            split: what is read.
            data: how remote shards are.
            stop: when it is set, waiting for the network ends with DataError.
        """
        self._split, self._stop = split, stop or threading.Event()
        self._locations = [split.shard_location(shard) for shard in range(len(split.shards))]
        self._ranged = {
            shard for shard, where in enumerate(self._locations) if data.remote == "ranges" and is_remote(where)
        }
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._copies: ShardCache | None = None
        if not self._ranged and any(is_remote(location) for location in self._locations):
            directory = Path(data.cache_dir).expanduser() / "shards"
            self._copies = ShardCache(directory, data.shard_cache_bytes, threads=data.fetch_threads, stop=self._stop)
        self.bytes_read = 0
        """Of encoded images."""
        self._bytes_by_range = 0

    @property
    def keeps_copies(self) -> bool:
        """Whether shards are fetched to this node."""
        return self._copies is not None

    @property
    def bytes_fetched(self) -> int:
        """Through the network, whole shards included."""
        return self._bytes_by_range + (self._copies.bytes_fetched if self._copies is not None else 0)

    def read(self, sample_ids: IdArray) -> EncodedBatch:
        """Encoded images.

        Reasons against one are `unreadable` (the system or the server refuses), `truncated` (the shard ends before the
        image does), `checksum`, and `too_large` (by the size that the index gives).

        Raises:
            DataError: a remote shard cannot be reached.
        """
        records = self._split.samples[sample_ids]
        shards, offsets, sizes = records["shard"].tolist(), records["offset"].tolist(), records["size"].tolist()
        batch = make_room(sizes)
        if self._ranged:
            self._fill_by_range(batch, shards, offsets)
        else:
            self._fill_from_files(batch, shards, offsets)
        for place, (image, expected) in enumerate(zip(batch.images, records["crc32"].tolist(), strict=True)):
            if crc32(image) != expected:
                batch.reasons.setdefault(place, "checksum")
        pixels = records["height"].astype(np.int64) * records["width"]
        for place in np.flatnonzero(pixels > MAX_PIXELS).tolist():
            batch.reasons.setdefault(place, "too_large")
        self.bytes_read += sum(sizes)
        return batch

    def read_ahead(self, shards: Sequence[int]) -> None:
        """Say which shards are wanted next, in this order; what was said before is forgotten.

        Remote ones are fetched in the background; others are closed, so that an evicted copy leaves the disk.
        """
        for shard in self._descriptors.keys() - set(shards):
            os.close(self._descriptors.pop(shard))
        if self._copies is not None:
            self._copies.read_ahead([self._remote(shard) for shard in shards if is_remote(self._locations[shard])])

    def describe(self, sample_id: int) -> str:
        """Where a sample lies, for a log line."""
        record = self._split.samples[sample_id]
        shard = self._locations[int(record["shard"])]
        return f"sample {sample_id} of split {self._split.name} ({shard} at byte {record['offset']})"

    def key(self, sample_id: int) -> str:
        """Name of a sample's image in its shard, or "" where the shard does not tell."""
        record = self._split.samples[sample_id]
        header = make_room([tarfile.BLOCKSIZE])
        try:
            if self._fill_one(header.images[0], int(record["shard"]), int(record["offset"]) - tarfile.BLOCKSIZE):
                return ""
            return tarfile.TarInfo.frombuf(bytes(header.images[0]), "utf-8", "replace").name
        except (DataError, tarfile.TarError):
            return ""

    def close(self) -> None:
        """Close the shards and end what goes on in the background."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])
        if self._copies is not None:
            self._copies.close()

    def _fill_from_files(self, batch: EncodedBatch, shards: list[int], offsets: list[int]) -> None:
        descriptors, preadv = self._descriptors, os.preadv
        for place, (image, shard, offset) in enumerate(zip(batch.images, shards, offsets, strict=True)):
            try:
                count = preadv(descriptors[shard], (image,), offset)
            except (KeyError, OSError):
                count = -1
            if count != len(image):  # not open yet, or something is wrong
                reason = self._fill_one(image, shard, offset)
                if reason:
                    batch.reasons[place] = reason

    def _fill_one(self, image: memoryview, shard: int, offset: int) -> str:
        """Read one image and return what is wrong with it, "" for nothing."""
        if shard in self._ranged:
            return self._fetch([image], [shard], [offset])[0]
        try:
            descriptor = self._descriptors.get(shard)
            count = os.preadv(self._open(shard) if descriptor is None else descriptor, (image,), offset)
        except OSError:
            return "unreadable"
        except FetchError as error:
            if error.reason != "checksum":
                raise
            # The shard arrives, but damaged. Most of its samples may be sound: from now on each is fetched alone.
            logger.warning("%s; its samples are fetched and checked one by one", error)
            self._ranged.add(shard)
            return self._fetch([image], [shard], [offset])[0]
        return "" if count == len(image) else "truncated"

    def _fill_by_range(self, batch: EncodedBatch, shards: list[int], offsets: list[int]) -> None:
        """Remote samples by one round of requests, others from their files."""
        remote = [place for place, shard in enumerate(shards) if shard in self._ranged]
        answers = self._fetch(
            [batch.images[place] for place in remote],
            [shards[place] for place in remote],
            [offsets[place] for place in remote],
        )
        reasons = dict(zip(remote, answers, strict=True))
        for place, shard in enumerate(shards):
            if shard not in self._ranged:
                reasons[place] = self._fill_one(batch.images[place], shard, offsets[place])
        batch.reasons |= {place: reason for place, reason in reasons.items() if reason}

    def _fetch(self, images: list[memoryview], shards: list[int], offsets: list[int]) -> list[str]:
        """Read images by ranged requests and return what is wrong with each, "" for nothing."""
        urls = [self._locations[shard] for shard in shards]
        ends = [offset + len(image) for offset, image in zip(offsets, images, strict=True)]
        reasons = []
        for image, url, answer in zip(images, urls, read_ranges(urls, offsets, ends, stop=self._stop), strict=True):
            if isinstance(answer, InterruptedError):
                raise DataError(f"{url}: reading was stopped")
            if isinstance(answer, bytes):
                image[:] = answer
                self._bytes_by_range += len(answer)
            reasons.append("" if isinstance(answer, bytes) else "unreadable")
        return reasons

    def _open(self, shard: int) -> int:
        if len(self._descriptors) >= _OPEN_SHARDS:
            os.close(self._descriptors.popitem(last=False)[1])
        if self._copies is not None and is_remote(self._locations[shard]):
            descriptor = self._copies.open(self._remote(shard))
        else:
            descriptor = os.open(self._locations[shard], os.O_RDONLY | os.O_CLOEXEC)
        self._descriptors[shard] = descriptor
        return descriptor

    def _remote(self, shard: int) -> RemoteShard:
        entry = self._split.shards[shard]
        return RemoteShard(url=self._locations[shard], bytes=entry.bytes, sha256=entry.sha256)
