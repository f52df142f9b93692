"""Encoded images by sample id: read by offset from the shards, checked by CRC."""

import os
import zlib
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from pipelines.manifest import SplitIndex

# Window shuffling keeps few shards in use; an unbounded set would meet the usual limit of 1,024 open files.
_OPEN_SHARDS = 256


class DamagedSampleError(Exception):
    """A sample cannot be used; `reason` is one of a few words that metrics count under."""

    def __init__(self, sample_id: int, reason: str) -> None:
        super().__init__(f"sample {sample_id}: {reason}")
        self.sample_id = sample_id
        self.reason = reason


class Store:
    """Reads one split.

    `os.pread` into memory of our own, never mmap: a shard that shrinks, or a network mount that fails, would kill the
    process with SIGBUS.
    """

    def __init__(self, split: SplitIndex) -> None:
        self._split = split
        self._descriptors: OrderedDict[int, int] = OrderedDict()

    def read(self, sample_id: int) -> npt.NDArray[np.uint8]:
        """Return the encoded image, (bytes,).

        Raises:
            DamagedSampleError: `unreadable` (the system refuses), `truncated` (the shard ends before the image does) or
                `checksum`.
        """
        record = self._split.samples[sample_id]
        size = int(record["size"])
        try:
            data = os.pread(self._descriptor(int(record["shard"])), size, int(record["offset"]))
        except OSError:
            raise DamagedSampleError(sample_id, "unreadable") from None
        if len(data) != size:
            raise DamagedSampleError(sample_id, "truncated")
        if zlib.crc32(data) != record["crc32"]:
            raise DamagedSampleError(sample_id, "checksum")
        return np.frombuffer(data, dtype=np.uint8)

    def describe(self, sample_id: int) -> str:
        """Where a sample lies, for a log line."""
        record = self._split.samples[sample_id]
        shard = self._split.shards[int(record["shard"])].file
        return f"sample {sample_id} of split {self._split.name} ({shard} at byte {record['offset']})"

    def close(self) -> None:
        """Close the shards; the store opens them again when it is read."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _descriptor(self, shard: int) -> int:
        if shard in self._descriptors:
            self._descriptors.move_to_end(shard)
            return self._descriptors[shard]
        if len(self._descriptors) >= _OPEN_SHARDS:
            os.close(self._descriptors.popitem(last=False)[1])
        path = self._split.shard_location(shard)
        self._descriptors[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptors[shard]
