"""What a data set directory holds: `manifest.json`, one binary index per split, and the shards they describe.

    DIR/manifest.json         splits, shards with bytes and sha256, classes, image statistics, how it was made
    DIR/train.index.npy       one INDEX_DTYPE record per sample, in the order in which the samples stand in the shards
    DIR/train-000000.tar      plain WebDataset; DIR/train-000000.idx is DALI's index of the same shard

A sample's id is its row in the index of its split.
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

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
UNLABELLED = -1

INDEX_DTYPE = np.dtype(
    [
        ("shard", "<u4"),  # position in Split.shards
        ("offset", "<u8"),  # of the image's first byte in the shard
        ("size", "<u4"),  # of the encoded image in bytes
        ("crc32", "<u4"),  # zlib.crc32 of the encoded image
        ("label", "<i4"),  # position in Manifest.classes, or UNLABELLED
        ("height", "<u4"),  # of the upright image, after EXIF rotation
        ("width", "<u4"),
    ]
)
IndexArray = npt.NDArray[np.void]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file of a split."""

    file: str
    bytes: int
    samples: int
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
    """`mean` and `std` of the train split's pixels per RGB channel, in [0, 1]."""
    made: dict[str, Any]
    """Source, seed and options of the build, for the reader; nothing depends on it."""

    @property
    def fingerprint(self) -> str:
        """Hash of the samples and labels: equal for equal data, wherever it lies and however it came about."""
        content = {"classes": self.classes, "splits": {name: asdict(split) for name, split in self.splits.items()}}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class SplitIndex:
    """A split that was checked and is ready to be read."""

    name: str
    directory: Path
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


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json`; the caller makes the directory's appearance atomic."""
    content = {"format": "diptych-shards", "version": FORMAT_VERSION, **asdict(manifest)}
    (directory / MANIFEST_NAME).write_text(json.dumps(content, indent=1) + "\n")


def read_manifest(directory: Path) -> Manifest:
    """Read `manifest.json`.

    Raises:
        DataError: it is missing, is not JSON, is of another format or version, or lacks a field.
    """
    path = directory / MANIFEST_NAME
    rebuild = "build the data set again with `python -m pipelines.build_shards`"
    try:
        content = json.loads(path.read_text())
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
        return Manifest(
            name=content["name"],
            classes=tuple(content["classes"]),
            splits={
                name: Split(**{**split, "shards": tuple(Shard(**shard) for shard in split["shards"])})
                for name, split in content["splits"].items()
            },
            statistics=content["statistics"],
            made=content["made"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: malformed manifest ({type(error).__name__}: {error}); {rebuild}") from None


def open_split(directory: Path, split_name: str) -> SplitIndex:
    """Check a split against the manifest, as far as is possible without reading the shards, and load its index.

    Raises:
        DataError: the split does not exist, or the index or a shard is missing, has another size or other content
            than the manifest says. Each sample's bytes are checked by CRC32 when they are read.
    """
    manifest = read_manifest(directory)
    if split_name not in manifest.splits:
        raise DataError(f"{directory}: no split '{split_name}'; it has {', '.join(sorted(manifest.splits))}")
    split = manifest.splits[split_name]
    samples = _load_index(directory / split.index_file, split)
    _check_shards(directory, split, samples)
    return SplitIndex(name=split_name, directory=directory, manifest=manifest, shards=split.shards, samples=samples)


def _load_index(path: Path, split: Split) -> IndexArray:
    advice = "restore the file or build the data set again"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; {advice}") from None
    if hashlib.sha256(data).hexdigest() != split.index_sha256:
        raise DataError(f"{path}: does not match manifest.json (sha256 differs); {advice}")
    samples: IndexArray = np.load(io.BytesIO(data), allow_pickle=False)
    if samples.dtype != INDEX_DTYPE or samples.shape != (split.samples,):
        raise DataError(f"{path}: not an index of {split.samples} samples; {advice}")
    return samples


def _check_shards(directory: Path, split: Split, samples: IndexArray) -> None:
    advice = "restore the shard or build the data set again"
    counts = np.bincount(samples["shard"], minlength=len(split.shards))
    if counts.tolist() != [shard.samples for shard in split.shards]:
        raise DataError(f"{directory / split.index_file}: samples per shard differ from manifest.json; {advice}")
    for shard in split.shards:
        path = directory / shard.file
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; {advice}") from None
        if size != shard.bytes:
            raise DataError(f"{path}: {size} bytes, manifest.json says {shard.bytes}; {advice}")
