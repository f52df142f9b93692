"""The official archives of CIFAR-10 and CIFAR-100 (Krizhevsky 2009), binary or Python, packed or not, or downloaded."""

import hashlib
import http.client
import pickle
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
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

PIXEL_BYTES = 3 * 32 * 32
PNG_BYTES = PIXEL_BYTES + 512
"""No PNG of 32x32 RGB pixels is larger: deflate falls back to storing."""


@dataclass(frozen=True, kw_only=True)
class CifarSet:
    """How one of the two sets is laid out, in either version."""

    title: str
    name: str
    """Of the data set."""
    classes: int
    batches: tuple[tuple[str, str], ...]
    """File name, with .bin behind it in the binary version, and split."""
    label_bytes: int
    """Before the pixels of a record of the binary version; the last is the label."""
    binary_names: str
    """File of the binary version that names the classes."""
    python_names: tuple[str, str]
    """File of the Python version that names the classes, and the key there."""
    labels_key: str
    """Of the labels in a batch of the Python version."""
    binary_url: str
    binary_md5: str
    python_md5: str


CIFAR10 = CifarSet(
    title="CIFAR-10",
    name="cifar10",
    classes=10,
    batches=(*((f"data_batch_{number}", "train") for number in range(1, 6)), ("test_batch", "test")),
    label_bytes=1,
    binary_names="batches.meta.txt",
    python_names=("batches.meta", "label_names"),
    labels_key="labels",
    binary_url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    binary_md5="c32a1d4ab5d03f1284b67883e8d87530",
    python_md5="c58f30108f718f92721af3b95e74349a",
)

CIFAR100 = CifarSet(
    title="CIFAR-100",
    name="cifar100",
    classes=100,
    batches=(("train", "train"), ("test", "test")),
    label_bytes=2,  # the superclass, of which there are 20, and the class
    binary_names="fine_label_names.txt",
    python_names=("meta", "fine_label_names"),
    labels_key="fine_labels",
    binary_url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    binary_md5="03b5dce01913d631647c71ecec9e9cb8",
    python_md5="eb9058c3a382ffc7106e4002c42a8d85",
)


def cifar_source(cifar: CifarSet, path: Path, spool: Path) -> Source:
    """One of the two sets, from one of its archives or from the directory into which one was unpacked.

    Pixels are encoded as PNG when they are read. Both versions give the same data set.

    Args:
        cifar: which set.
        path: such as cifar-10-binary.tar.gz or cifar-100-python.tar.gz, repacked or unpacked.
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
    first = cifar.batches[0][0]
    if f"{first}.bin" in by_name:
        classes = _binary_classes(cifar, path, by_name)
        items = Items(
            item for batch, split in cifar.batches for item in _binary_items(cifar, path, by_name, batch, split)
        )
    elif first in by_name:
        classes = _python_classes(cifar, path, by_name)
        items = Items(_python_items(cifar, path, by_name, spool))
    else:
        raise DataError(f"{path}: neither {first}.bin nor {first} in it; expected {cifar.title}, binary or Python")
    notes = []
    if path.is_file() and not is_official(cifar, path):
        notes.append(f"{path} is not one of the official archives (md5 differs); its structure was checked")
    return Source(name=cifar.name, classes=classes, items=items, read=read_planar, faults=[], notes=tuple(notes))


def read_planar(item: Item) -> bytes:
    """PNG of an item whose pixels lie as three planes of 32 x 32 bytes."""
    planes = np.frombuffer(read_at(item.path, item.offset, PIXEL_BYTES), dtype=np.uint8)
    return encode_png(np.ascontiguousarray(planes.reshape(3, 32, 32).transpose(1, 2, 0)))


def downloaded(cifar: CifarSet, directory: Path) -> Path:
    """Fetch the official archive.

    Raises:
        DataError: see `download`.
    """
    archive = directory / cifar.binary_url.rpartition("/")[2]
    say(f"downloading {cifar.binary_url}")
    download(cifar.binary_url, cifar.binary_md5, archive)
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


def is_official(cifar: CifarSet, path: Path) -> bool:
    """Whether a file is one of the two official archives of a set, byte for byte."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return digest.hexdigest() in (cifar.binary_md5, cifar.python_md5)


def _required(path: Path, by_name: dict[str, StoredFile], name: str) -> StoredFile:
    if name not in by_name:
        raise DataError(f"{path}: {name} is missing")
    return by_name[name]


def _binary_classes(cifar: CifarSet, path: Path, by_name: dict[str, StoredFile]) -> tuple[str, ...]:
    file = _required(path, by_name, cifar.binary_names)
    names = read_at(file.path, file.offset, file.size).decode("ascii", "replace").split()
    return _checked_classes(cifar, path, file.name, names)


def _checked_classes(cifar: CifarSet, path: Path, file_name: str, names: list[str]) -> tuple[str, ...]:
    if len(set(names)) != cifar.classes or len(names) != cifar.classes:
        raise DataError(f"{path}: {file_name} should name {cifar.classes} classes, it names {len(set(names))}")
    return tuple(names)


def _binary_items(
    cifar: CifarSet, path: Path, by_name: dict[str, StoredFile], batch: str, split: str
) -> Iterator[Item]:
    file = _required(path, by_name, f"{batch}.bin")
    record_bytes = cifar.label_bytes + PIXEL_BYTES
    if file.size == 0 or file.size % record_bytes:
        raise DataError(f"{path}: {file.name} has {file.size} bytes, not a multiple of {record_bytes}")
    labels = read_at(file.path, file.offset, file.size)[cifar.label_bytes - 1 :: record_bytes]
    _check_labels(cifar, path, file.name, list(labels))
    for row, label in enumerate(labels):
        pixels = file.offset + row * record_bytes + cifar.label_bytes
        yield Item(split, label, f"{batch}/{row:05d}", file.path, pixels, PNG_BYTES)


def _check_labels(cifar: CifarSet, path: Path, file_name: str, labels: list[int]) -> None:
    for row, label in enumerate(labels):
        if not 0 <= label < cifar.classes:
            raise DataError(f"{path}: {file_name}, record {row}: label {label} is not in 0 ... {cifar.classes - 1}")


def _python_classes(cifar: CifarSet, path: Path, by_name: dict[str, StoredFile]) -> tuple[str, ...]:
    file_name, key = cifar.python_names
    file = _required(path, by_name, file_name)
    names = _unpickle(cifar, path, file).get(key)
    if not isinstance(names, list):
        raise DataError(f"{path}: {file.name} has no list of {key}")
    texts = [name.decode("ascii", "replace") if isinstance(name, bytes) else str(name) for name in names]
    return _checked_classes(cifar, path, file.name, texts)


def _python_items(cifar: CifarSet, path: Path, by_name: dict[str, StoredFile], spool: Path) -> Iterator[Item]:
    # The pixels are written to the spool because a pickle cannot be read by offset.
    with spool.open("wb") as pixels:
        for batch, split in cifar.batches:
            file = _required(path, by_name, batch)
            content = _unpickle(cifar, path, file)
            labels, array = content.get(cifar.labels_key), content.get("data")
            if not isinstance(labels, list) or not labels or not all(isinstance(label, int) for label in labels):
                raise DataError(f"{path}: {file.name} has no list of {cifar.labels_key}")
            if (
                not isinstance(array, PickledArray)
                or array.shape != (len(labels), PIXEL_BYTES)
                or not isinstance(array.data, bytes)
                or len(array.data) != len(labels) * PIXEL_BYTES
            ):
                raise DataError(f"{path}: {file.name} has no array of {len(labels)} x {PIXEL_BYTES} bytes as data")
            _check_labels(cifar, path, file.name, labels)
            for row, label in enumerate(labels):
                offset = pixels.tell() + row * PIXEL_BYTES
                yield Item(split, label, f"{batch}/{row:05d}", str(spool), offset, PNG_BYTES)
            pixels.write(array.data)


def _unpickle(cifar: CifarSet, path: Path, file: StoredFile) -> dict[str, Any]:
    try:
        return load_dictionary(read_at(file.path, file.offset, file.size))
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: {file.name} is not a batch of {cifar.title}: {error}") from None
