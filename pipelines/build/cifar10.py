"""The official CIFAR-10 archives (Krizhevsky 2009): binary and Python version, packed, unpacked or downloaded."""

import hashlib
import http.client
import pickle
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.build.archives import StoredFile, list_archive, list_directory, read_at
from pipelines.build.array_pickle import PickledArray, load_dictionary
from pipelines.build.images import encode_png
from pipelines.build.items import Item, Items
from pipelines.build.sources import Source
from pipelines.errors import DataError
from pipelines.messages import say

BINARY_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
BINARY_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
PYTHON_MD5 = "c58f30108f718f92721af3b95e74349a"

BATCHES = (*((f"data_batch_{number}", "train") for number in range(1, 6)), ("test_batch", "test"))
PIXEL_BYTES = 3 * 32 * 32
RECORD_BYTES = 1 + PIXEL_BYTES
PNG_BYTES = PIXEL_BYTES + 512
"""No PNG of 32x32 RGB pixels is larger: deflate falls back to storing."""


def cifar10_source(path: Path, spool: Path) -> Source:
    """CIFAR-10 from one of its archives or from the directory into which one was unpacked.

    Pixels are encoded as PNG when they are read. Both versions give the same data set.

    Args:
        path: cifar-10-binary.tar.gz, cifar-10-python.tar.gz, repacked or unpacked.
        spool: file to write what has to be unpacked; must live as long as items are read.

    Raises:
        DataError: a batch is missing or not of the format.
    """
    if path.is_dir():
        files = list_directory(path)
    elif path.is_file():
        files = list_archive(path, spool.with_suffix(".archive"))
    else:
        raise DataError(f"{path}: no such file or directory")
    by_name = {file.name.rpartition("/")[2]: file for file in files}
    if "data_batch_1.bin" in by_name:
        classes = _binary_classes(path, _required(path, by_name, "batches.meta.txt"))
        items = Items(item for batch, split in BATCHES for item in _binary_items(path, by_name, batch, split, classes))
    elif "data_batch_1" in by_name:
        classes = _python_classes(path, _required(path, by_name, "batches.meta"))
        items = Items(_python_items(path, by_name, classes, spool))
    else:
        raise DataError(f"{path}: neither data_batch_1.bin nor data_batch_1 in it; expected CIFAR-10, binary or Python")
    notes = []
    if path.is_file() and not is_official(path):
        notes.append(f"{path} is not one of the official archives (md5 differs); its structure was checked")
    return Source(name="cifar10", classes=classes, items=items, read=read_planar, faults=[], notes=tuple(notes))


def read_planar(item: Item) -> bytes:
    """PNG of an item whose pixels lie as three planes of 32 x 32 bytes."""
    planes = np.frombuffer(read_at(item.path, item.offset, PIXEL_BYTES), dtype=np.uint8)
    return encode_png(np.ascontiguousarray(planes.reshape(3, 32, 32).transpose(1, 2, 0)))


def downloaded(directory: Path) -> Path:
    """Fetch the official archive.

    Raises:
        DataError: see `download`.
    """
    archive = directory / "cifar-10-binary.tar.gz"
    say(f"downloading {BINARY_URL}")
    download(BINARY_URL, BINARY_MD5, archive)
    return archive


def download(url: str, md5: str, target: Path) -> None:
    """Fetch a file; it appears under its name only once its checksum is right.

    Raises:
        DataError: it cannot be fetched or has another checksum.
    """
    advice = "fetch it by other means and name it with --source"
    partial = target.with_name(target.name + ".partial")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.build_opener().open(url, timeout=60) as response, partial.open("wb") as file:
            while block := response.read(1 << 20):
                digest.update(block)
                file.write(block)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(f"{url}: cannot be fetched ({error}); {advice}") from None
    if digest.hexdigest() != md5:
        raise DataError(f"{url}: md5 of what came is {digest.hexdigest()}, expected {md5}; {advice}")
    partial.rename(target)


def is_official(path: Path) -> bool:
    """Whether a file is one of the two official archives, byte for byte."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return digest.hexdigest() in (BINARY_MD5, PYTHON_MD5)


def _required(path: Path, by_name: dict[str, StoredFile], name: str) -> StoredFile:
    if name not in by_name:
        raise DataError(f"{path}: {name} is missing")
    return by_name[name]


def _binary_classes(path: Path, file: StoredFile) -> tuple[str, ...]:
    names = read_at(file.path, file.offset, file.size).decode("ascii", "replace").split()
    return _checked_classes(path, file.name, names)


def _checked_classes(path: Path, file_name: str, names: list[str]) -> tuple[str, ...]:
    if len(set(names)) != 10 or len(names) != 10:
        raise DataError(f"{path}: {file_name} should name 10 classes, it names {len(set(names))}")
    return tuple(names)


def _binary_items(
    path: Path, by_name: dict[str, StoredFile], batch: str, split: str, classes: tuple[str, ...]
) -> Iterator[Item]:
    file = _required(path, by_name, f"{batch}.bin")
    if file.size == 0 or file.size % RECORD_BYTES:
        raise DataError(f"{path}: {file.name} has {file.size} bytes, not a multiple of {RECORD_BYTES}")
    labels = read_at(file.path, file.offset, file.size)[::RECORD_BYTES]
    _check_labels(path, file.name, list(labels), classes)
    for row, label in enumerate(labels):
        pixels = file.offset + row * RECORD_BYTES + 1
        yield Item(split, label, f"{batch}/{row:05d}", file.path, pixels, PNG_BYTES)


def _check_labels(path: Path, file_name: str, labels: list[int], classes: tuple[str, ...]) -> None:
    for row, label in enumerate(labels):
        if not 0 <= label < len(classes):
            raise DataError(f"{path}: {file_name}, record {row}: label {label} is not in 0 ... {len(classes) - 1}")


def _python_classes(path: Path, file: StoredFile) -> tuple[str, ...]:
    names = _unpickle(path, file).get("label_names")
    if not isinstance(names, list):
        raise DataError(f"{path}: {file.name} has no list of label_names")
    return _checked_classes(
        path, file.name, [name.decode("ascii", "replace") if isinstance(name, bytes) else str(name) for name in names]
    )


def _python_items(path: Path, by_name: dict[str, StoredFile], classes: tuple[str, ...], spool: Path) -> Iterator[Item]:
    # The pixels are written to the spool because a pickle cannot be read by offset.
    with spool.open("wb") as pixels:
        for batch, split in BATCHES:
            file = _required(path, by_name, batch)
            content = _unpickle(path, file)
            labels, array = content.get("labels"), content.get("data")
            if not isinstance(labels, list) or not labels or not all(isinstance(label, int) for label in labels):
                raise DataError(f"{path}: {file.name} has no list of labels")
            if (
                not isinstance(array, PickledArray)
                or array.shape != (len(labels), PIXEL_BYTES)
                or not isinstance(array.data, bytes)
                or len(array.data) != len(labels) * PIXEL_BYTES
            ):
                raise DataError(f"{path}: {file.name} has no array of {len(labels)} x {PIXEL_BYTES} bytes as data")
            _check_labels(path, file.name, labels, classes)
            for row, label in enumerate(labels):
                offset = pixels.tell() + row * PIXEL_BYTES
                yield Item(split, label, f"{batch}/{row:05d}", str(spool), offset, PNG_BYTES)
            pixels.write(array.data)


def _unpickle(path: Path, file: StoredFile) -> dict[str, Any]:
    try:
        return load_dictionary(read_at(file.path, file.offset, file.size))
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: {file.name} is not a batch of CIFAR-10: {error}") from None
