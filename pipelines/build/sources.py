"""What a data set is built from: light items that can be read alone, in any order, by any process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zlib import crc32

from pipelines.build.archives import StoredFile, list_archive, list_directory, read_at
from pipelines.build.items import SPLITS, Item, Items
from pipelines.errors import DataError
from pipelines.manifest import UNLABELLED

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, slots=True)
class Fault:
    """An image that is left out, and why."""

    name: str
    """In the source."""
    reason: str
    split: str | None = None
    """None where it was refused before it was given to a split."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Everything there is to build from."""

    name: str
    classes: tuple[str, ...]
    """Names by label; empty for unlabelled data."""
    items: Items
    """In an order that does not depend on how a file system or an archive lists them."""
    read: Callable[[Item], bytes]
    """Encoded bytes of an item. Can be pickled; raises OSError."""
    faults: list[Fault]
    """Files that were refused by their names alone."""
    resize: str = "none"
    """What was done to the images already: Manifest.resize of a data set that is written anew."""
    metric: str = ""
    """How scores on it are reported, for the manifest's reader: top1, mean_per_class, or "" where nothing is said."""
    notes: tuple[str, ...] = ()
    """What the user should know, a line each."""


def read_stored(item: Item) -> bytes:
    """Bytes of an image that is stored as it is."""
    return read_at(item.path, item.offset, item.size)


def split_word(split: str) -> int:
    """The split's name as an integer, to hash with."""
    return crc32(split.encode())


def is_image(file: StoredFile) -> bool:
    """Whether it bears the name of one."""
    return _suffix(file) in IMAGE_SUFFIXES


def not_an_image(file: StoredFile) -> Fault:
    """The fault of a file for which `is_image` is false."""
    return Fault(file.name, f"suffix '{_suffix(file)}' is none of {', '.join(IMAGE_SUFFIXES)}")


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
    faults = [not_an_image(file) for file in files if not is_image(file)]
    images = [file for file in files if is_image(file)]
    if not images:
        raise DataError(f"{path}: no images; expected {', '.join(IMAGE_SUFFIXES)} files")
    root = _common_root(images)
    has_splits = _has_splits(path, {_first_directory(file.name[root:]) for file in images})
    classes = _agreed_classes(path, {_place(file.name[root:], has_splits=has_splits) for file in images})
    labels = {name: label for label, name in enumerate(classes)}
    return Source(
        name=path.resolve().name.split(".")[0],
        classes=classes,
        items=Items(_items(images, root, labels, has_splits=has_splits)),
        read=read_stored,
        faults=faults,
    )


def _items(images: list[StoredFile], root: int, labels: dict[str, int], *, has_splits: bool) -> Iterator[Item]:
    for file in images:
        name = file.name[root:]
        split, directory = _place(name, has_splits=has_splits)
        yield Item(split, labels.get(directory, UNLABELLED), name, file.path, file.offset, file.size)


def _suffix(file: StoredFile) -> str:
    return PurePosixPath(file.name).suffix.lower()


def _common_root(files: list[StoredFile]) -> int:
    """Length of the directory, with its slash, in which all files lie; 0 if it is none or a split's."""
    roots = {_first_directory(file.name) for file in files}
    if len(roots) != 1 or roots <= {"", *SPLITS}:
        return 0
    return len(roots.pop()) + 1


def _has_splits(path: Path, tops: set[str]) -> bool:
    """Whether the directories on top are splits.

    Args:
        path: for messages.
        tops: their names; '' stands for files beside them.
    """
    if not tops & set(SPLITS):
        return False
    if "train" not in tops:
        raise DataError(f"{path}: has {', '.join(sorted(tops - {''}))}, but no train directory")
    if outside := sorted(tops - set(SPLITS)):
        what = f"'{outside[0]}'" if outside[0] else "images"
        raise DataError(f"{path}: has {what} beside the split directories; expected only {', '.join(SPLITS)} there")
    return True


def _place(name: str, *, has_splits: bool) -> tuple[str, str]:
    """Split and class directory ('' without) of an image."""
    if not has_splits:
        return "train", _first_directory(name)
    split, _, rest = name.partition("/")
    return split, _first_directory(rest)


def _first_directory(name: str) -> str:
    directory, slash, _ = name.partition("/")
    return directory if slash else ""


def _agreed_classes(path: Path, placed: set[tuple[str, str]]) -> tuple[str, ...]:
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
