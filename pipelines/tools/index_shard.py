"""One foreign shard, read once from front to back: a record per good sample and a fault per other."""

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from pipelines.errors import DataError
from pipelines.hashing import UInt64Array
from pipelines.manifest import INDEX_DTYPE, IndexArray
from pipelines.tools.foreign_sample import ForeignSample, SampleFaultError, read_sample
from pipelines.tools.tar_samples import most_bytes, open_shard, tar_samples
from pipelines.tools.tar_stream import BrokenTarError, TarStream, tar_members


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFault:
    """A sample, or the rest of a shard, that cannot be used."""

    shard: str
    key: str
    """Empty if it is the shard."""
    reason: str
    """One word."""
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedShard:
    """What became of a shard. Text is kept compressed: there may be 10^8 samples."""

    location: str
    size: int
    """Bytes."""
    sha256: str
    records: IndexArray
    """INDEX_DTYPE, one per good sample; `shard` is yet to be set."""
    key_hashes: UInt64Array
    """One per good sample."""
    packed_keys: bytes
    packed_idx_lines: bytes
    histogram: npt.NDArray[np.int64]
    """(3, 256) pixel counts by channel and value; zeros if only headers were looked at."""
    faults: list[IndexFault]


@dataclass(frozen=True, slots=True)
class ShardToIndex:
    """Which shard to read, and how."""

    location: str
    decode: bool


def index_shard(work: ShardToIndex) -> IndexedShard:
    """Read a shard.

    Raises:
        DataError: it cannot be read at all.
    """
    keys: list[str] = []
    idx_lines: list[str] = []
    records: list[tuple[int, ...]] = []
    faults: list[IndexFault] = []
    histogram = np.zeros((3, 256), dtype=np.int64)
    try:
        with open_shard(work.location) as file:
            stream = TarStream(file, hashed=True)
            try:
                for sample in tar_samples(tar_members(stream, most_bytes)):
                    try:
                        read = read_sample(sample, decode=work.decode)
                    except SampleFaultError as error:
                        faults.append(_fault(work, sample.key, error.reason, str(error)))
                        continue
                    if read.checked:
                        histogram += read.checked.histogram
                    keys.append(sample.key)
                    idx_lines.append(sample.idx_line())
                    records.append(_record(read))
            except BrokenTarError as error:
                faults.append(_fault(work, "", error.reason, f"{error}; the {len(keys)} good samples before are kept"))
                stream.read_rest()
            else:
                if stream.read_rest():
                    faults.append(_fault(work, "", "trailing_data", "what follows its end mark is not read"))
    except OSError as error:
        raise DataError(f"{work.location}: cannot be read ({error.strerror or error})") from None
    return IndexedShard(
        location=work.location,
        size=stream.position,
        sha256=stream.sha256.hexdigest(),
        records=np.array(records, dtype=INDEX_DTYPE),
        key_hashes=np.array([key_hash(key) for key in keys], dtype=np.uint64),
        packed_keys=pack_lines(keys),
        packed_idx_lines=pack_lines(idx_lines),
        histogram=histogram,
        faults=faults,
    )


def key_hash(key: str) -> int:
    """64 bits of a key."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")


def pack_lines(lines: Iterable[str]) -> bytes:
    """Compress many similar texts."""
    return zlib.compress(json.dumps(list(lines)).encode(), level=1)


def unpack_lines(packed: bytes) -> list[str]:
    """What `pack_lines` was given."""
    lines: list[str] = json.loads(zlib.decompress(packed))
    return lines


def _record(sample: ForeignSample) -> tuple[int, ...]:
    return (0, sample.offset, sample.size, sample.crc32, sample.label, sample.height, sample.width)


def _fault(work: ShardToIndex, key: str, reason: str, message: str) -> IndexFault:
    return IndexFault(shard=work.location, key=key, reason=reason, message=message)
