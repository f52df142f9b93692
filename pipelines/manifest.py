"""What a data set directory holds: `manifest.json`, one binary index per split, and the shards they describe.

    DIR/manifest.json         splits, shards with bytes and sha256, classes, image statistics, how it was made
    DIR/train.index.npy       one INDEX_DTYPE record per sample, in the order in which the samples stand in the shards
    DIR/train-000000.tar      plain WebDataset; DIR/train-000000.idx is DALI's index of the same shard

A sample's id is its row in the index of its split. DIR may be a URL. Shards may lie elsewhere: a subset names those of
its parent, an index of foreign shards may name URLs.
"""

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import DataError
from pipelines.remote.locations import file_size, is_remote, join, read_file

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
UNLABELLED = -1
MAX_PIXELS = 100_000_000
"""Larger images are refused by their header: a PNG of 388 KB can decode to 2.4 GB."""

INDEX_DTYPE = np.dtype(
    [
        ("shard", "<u4"),  # position in Split.shards
        ("offset", "<u8"),  # of the image's first byte in the shard
        ("size", "<u4"),  # of the encoded image in bytes
        ("crc32", "<u4"),  # zlib.crc32 of the encoded image
        ("label", "<i4"),  # position in Manifest.classes, or UNLABELLED
        ("height", "<u4"),  # of the upright original, after EXIF rotation and before any resizing
        ("width", "<u4"),
    ]
)
IndexArray = npt.NDArray[np.void]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file of a split."""

    file: str
    """Relative to the data set directory, or an absolute path or URL."""
    bytes: int
    samples: int
    """Of this split; the file may hold more where Manifest.whole_shards is false."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Split:
    """One part of the data set, such as train."""

    samples: int
    index_file: str
    index_sha256: str
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a data set but its bytes."""

    name: str
    classes: tuple[str, ...]
    """Names by label; empty for unlabelled data."""
    splits: dict[str, Split]
    statistics: dict[str, list[float]]
    """`mean` and `std` of the train split's pixels per RGB channel, in [0, 1]; empty if pixels were not checked."""
    resize: str = "none"
    """What was done to images before they were stored: none; canvas:S, resized to S x S; short:S, the short side to S,
    never enlarged. The index keeps the sizes of the originals."""
    whole_shards: bool = True
    """Whether the index lists every sample of every shard; subsets do not, nor foreign shards with bad samples."""
    pixels_checked: bool = True
    """Whether every image was decoded to its last pixel when it entered. If not, each is tried with care before it is
    decoded with others."""
    made: dict[str, Any]
    """Source, seed and options of the build, for the reader; nothing depends on it."""

    @property
    def fingerprint(self) -> str:
        """Hash of the samples and labels: equal for equal data, wherever it lies and however it came about."""
        splits = {
            name: {"index": split.index_sha256, "shards": [shard.sha256 for shard in split.shards]}
            for name, split in self.splits.items()
        }
        content = {"classes": self.classes, "splits": splits}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class SplitIndex:
    """A split that was checked and is ready to be read."""

    name: str
    location: str
    """Of the data set directory: a path or a URL."""
    manifest: Manifest
    shards: tuple[Shard, ...]
    samples: IndexArray
    """INDEX_DTYPE, one record per sample."""

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def samples_per_shard(self) -> npt.NDArray[np.int64]:
        """(shards,) counts."""
        return np.array([shard.samples for shard in self.shards], dtype=np.int64)

    def shard_location(self, shard: int) -> str:
        """Path or URL of a shard."""
        return join(self.location, self.shards[shard].file)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json`; the caller makes the directory's appearance atomic."""
    content = {"format": "diptych-shards", "version": FORMAT_VERSION, **asdict(manifest)}
    (directory / MANIFEST_NAME).write_text(json.dumps(content, indent=1) + "\n")


def read_manifest(directory: str | Path) -> Manifest:
    """Read `manifest.json`.

    Args:
        directory: a path or a URL.

    Raises:
        DataError: it is missing, is not JSON, is of another format or version, or lacks a field.
    """
    path = join(str(directory), MANIFEST_NAME)
    rebuild = "build the data set again with `python -m pipelines.build_shards`"
    try:
        content = json.loads(read_file(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {directory} is not a data set directory; {rebuild}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {rebuild}") from None
    if not isinstance(content, dict) or content.get("format") != "diptych-shards":
        raise DataError(f"{path}: not a manifest of Diptych shards; {rebuild}")
    if content.get("version") != FORMAT_VERSION:
        raise DataError(
            f"{path}: format version {content.get('version')}, this program reads {FORMAT_VERSION}; {rebuild}"
        )
    try:
        return _manifest(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: malformed manifest ({type(error).__name__}: {error}); {rebuild}") from None


def open_split(directory: str | Path, split_name: str) -> SplitIndex:
    """Check a split against the manifest, as far as is possible without reading the shards, and load its index.

    Sizes of shards that are reached through the network are not asked for: their bytes are checked when they arrive.

    Args:
        directory: a path or a URL.
        split_name: such as train.

    Raises:
        DataError: the split does not exist, or the index or a shard is missing, has another size or other content
            than the manifest says. Each sample's bytes are checked by CRC32 when they are read.
    """
    manifest = read_manifest(directory)
    if split_name not in manifest.splits:
        raise DataError(f"{directory}: no split '{split_name}'; it has {', '.join(sorted(manifest.splits))}")
    split = manifest.splits[split_name]
    samples = load_index(directory, split)
    _check_shards(directory, split, samples)
    return SplitIndex(name=split_name, location=str(directory), manifest=manifest, shards=split.shards, samples=samples)


def load_index(directory: str | Path, split: Split) -> IndexArray:
    """Index of a split, checked against the manifest's hash and counts.

    Raises:
        DataError: it is missing or is not the one that the manifest describes.
    """
    path = join(str(directory), split.index_file)
    advice = "restore the file or build the data set again"
    try:
        data = read_file(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; {advice}") from None
    if hashlib.sha256(data).hexdigest() != split.index_sha256:
        raise DataError(f"{path}: does not match manifest.json (sha256 differs); {advice}")
    samples: IndexArray = np.load(io.BytesIO(data), allow_pickle=False)
    if samples.dtype != INDEX_DTYPE or samples.shape != (split.samples,):
        raise DataError(f"{path}: not an index of {split.samples} samples; {advice}")
    counts = np.bincount(samples["shard"], minlength=len(split.shards))
    if counts.tolist() != [shard.samples for shard in split.shards]:
        raise DataError(f"{path}: samples per shard differ from manifest.json; {advice}")
    return samples


def _manifest(content: dict[str, Any]) -> Manifest:
    """Raises KeyError, TypeError, ValueError or AttributeError on anything malformed."""
    manifest = Manifest(
        name=content["name"],
        classes=tuple(content["classes"]),
        splits={
            name: Split(**{**split, "shards": tuple(Shard(**shard) for shard in split["shards"])})
            for name, split in content["splits"].items()
        },
        statistics=content["statistics"],
        resize=content["resize"],
        whole_shards=content["whole_shards"],
        pixels_checked=content["pixels_checked"],
        made=content["made"],
    )
    for name, split in manifest.splits.items():
        _require(split, f"splits.{name}", samples=int, index_file=str, index_sha256=str)
        for number, shard in enumerate(split.shards):
            _require(shard, f"splits.{name}.shards[{number}]", file=str, bytes=int, samples=int, sha256=str)
    _require(manifest, "manifest", name=str, resize=str, whole_shards=bool, pixels_checked=bool)
    return manifest


def _require(entry: object, where: str, **types: type) -> None:
    for field, wanted in types.items():
        value = getattr(entry, field)
        if type(value) is not wanted:
            raise TypeError(f"{where}.{field} is {value!r}, expected {wanted.__name__}")


def _check_shards(directory: str | Path, split: Split, samples: IndexArray) -> None:
    advice = "restore the shard or build the data set again"
    ends = samples["offset"].astype(np.int64) + samples["size"]
    last = np.zeros(len(split.shards), dtype=np.int64)
    np.maximum.at(last, samples["shard"], ends)
    for shard, end in zip(split.shards, last.tolist(), strict=True):
        path = join(str(directory), shard.file)
        if end > shard.bytes:
            raise DataError(f"{path}: {shard.bytes} bytes by manifest.json, but a sample ends at {end}; {advice}")
        if is_remote(path):
            continue
        try:
            size = file_size(path)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; {advice}") from None
        if size != shard.bytes:
            raise DataError(f"{path}: {size} bytes, manifest.json says {shard.bytes}; {advice}")
