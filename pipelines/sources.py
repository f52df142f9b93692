"""What a data set is built from: light items that can be read alone, in any order, by any process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zlib import crc32

from pipelines.archives import StoredFile, list_archive, list_directory, read_at
from pipelines.errors import DataError
from pipelines.manifest import UNLABELLED

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, slots=True)
class Item:
    """One image to come."""

    split: str
    label: int
    """Position in Source.classes, or UNLABELLED."""
    name: str
    """Where it lies in the source, with slashes."""
    path: str
    """File that holds its bytes; empty for generated images."""
    offset: int
    """Of its bytes in that file; the number within its split for generated images."""
    size: int
    """Of the encoded image in bytes; an upper bound where it is yet to be encoded."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An image that is left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """Everything there is to build from."""

    name: str
    classes: tuple[str, ...]
    """Names by label; empty for unlabelled data."""
    items: list[Item]
    """By name, so that their order does not depend on how a file system or an archive lists them."""
    read: Callable[[Item], bytes]
    """Encoded bytes of an item. Can be pickled; raises OSError."""
    faults: list[Fault]
    """Files that were refused by their names alone."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have items, train first."""
        present = {item.split for item in self.items}
        return tuple(split for split in SPLITS if split in present)


def read_stored(item: Item) -> bytes:
    """Bytes of an image that is stored as it is."""
    return read_at(item.path, item.offset, item.size)


def split_word(split: str) -> int:
    """The split's name as an integer, to hash with."""
    return crc32(split.encode())


def folder_source(path: Path, spool: Path) -> Source:
    """A directory, or a tar, tar.gz or zip archive, of images.

    On top there may be train/, test/ and val/; below, a directory per class, or the images themselves, unlabelled.
    All that may lie under one common root, so a lone class directory makes unlabelled data.

    Raises:
        DataError: no images, no train split, a class that a split lacks, images both in and beside class directories,
            or the archive is refused (see `list_archive`).
    """
    if path.is_dir():
        files = list_directory(path)
    elif path.is_file():
        files = list_archive(path, spool)
    else:
        raise DataError(f"{path}: no such file or directory")
    images = _without_common_root([file for file in files if _suffix(file) in IMAGE_SUFFIXES])
    if not images:
        raise DataError(f"{path}: no images; expected {', '.join(IMAGE_SUFFIXES)} files")
    placed = _place(path, images)
    classes = _agreed_classes(path, placed)
    labels = {name: label for label, name in enumerate(classes)}
    return Source(
        name=path.resolve().name.split(".")[0],
        classes=classes,
        items=[
            Item(split, labels.get(directory, UNLABELLED), file.name, file.path, file.offset, file.size)
            for file, (split, directory) in zip(images, placed, strict=True)
        ],
        read=read_stored,
        faults=[
            Fault(file.name, f"suffix '{_suffix(file)}' is none of {', '.join(IMAGE_SUFFIXES)}")
            for file in files
            if _suffix(file) not in IMAGE_SUFFIXES
        ],
    )


def _suffix(file: StoredFile) -> str:
    return PurePosixPath(file.name).suffix.lower()


def _without_common_root(files: list[StoredFile]) -> list[StoredFile]:
    roots = {_first_directory(file.name) for file in files}
    if len(roots) != 1 or roots <= {"", *SPLITS}:
        return files
    return [StoredFile(file.name.partition("/")[2], file.path, file.offset, file.size) for file in files]


def _place(path: Path, images: list[StoredFile]) -> list[tuple[str, str]]:
    """Split and class directory ('' without) of each image."""
    tops = {file.name.partition("/")[0] for file in images}
    if not tops & set(SPLITS):
        return [("train", _first_directory(file.name)) for file in images]
    if "train" not in tops:
        raise DataError(f"{path}: has {', '.join(sorted(tops))}, but no train directory")
    if outside := sorted(tops - set(SPLITS)):
        raise DataError(
            f"{path}: has '{outside[0]}' beside the split directories; expected only {', '.join(SPLITS)} there"
        )
    return [(split, _first_directory(rest)) for split, _, rest in (file.name.partition("/") for file in images)]


def _first_directory(name: str) -> str:
    directory, slash, _ = name.partition("/")
    return directory if slash else ""


def _agreed_classes(path: Path, placed: list[tuple[str, str]]) -> tuple[str, ...]:
    """Names of the classes, which all splits must share.

    Raises:
        DataError: they do not.
    """
    found: dict[str, set[str]] = {}
    for split, directory in placed:
        found.setdefault(split, set()).add(directory)
    union = set().union(*found.values())
    if union == {""}:
        return ()
    for split, directories in found.items():
        if "" in directories:
            raise DataError(f"{path}: split {split} has images outside of class directories, other images are in one")
    for split, directories in found.items():
        if missing := sorted(union - directories):
            raise DataError(f"{path}: split {split} has no images of class '{missing[0]}'")
    return tuple(sorted(union))
