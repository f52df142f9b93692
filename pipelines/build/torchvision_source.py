"""The paper's transfer sets as torchvision unpacks them: listed where they lie.

torchvision reads the lists of most sets. Caltech-101 and SUN397 have no splits there, and it leaves a class of
Caltech-101 out, so these two are listed here; CIFAR is read without unpickling, as ever.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.build.archives import list_directory
from pipelines.build.cifar import CIFAR10, CIFAR100, cifar_source
from pipelines.build.images import decode_image, encode_png
from pipelines.build.items import Item, Items
from pipelines.build.sources import Fault, Source, is_image, not_an_image, read_stored, split_word
from pipelines.build.torchvision_fetch import bring
from pipelines.build.transfer_sets import TRANSFER_SETS, TransferSet
from pipelines.errors import DataError
from pipelines.hashing import hash64

CALTECH_TRAIN = 30
"""Images of each class to learn from; the paper drew them at random, here a hash does."""
PARTITIONS_URL = "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip"

Placed = tuple[str, int, Path]
"""Split, label and file of an image."""


def torchvision_source(name: str, root: Path, spool: Path, *, download: bool) -> Source:
    """List the images of a set; the metric of the paper goes along.

    Args:
        name: one of TRANSFER_SETS.
        root: what torchvision calls the root: the directory in which the set's own lies.
        spool: file to write what has to be unpacked; must live as long as items are read.
        download: let torchvision fetch what is not there.

    Raises:
        DataError: the set is not there, not whole or not of its format, or cannot be fetched.
    """
    which, root = TRANSFER_SETS[name], root.expanduser()
    bring(which, root, download=download)
    faults = list[Fault]()
    if name in ("cifar10", "cifar100"):
        source = cifar_source(CIFAR10 if name == "cifar10" else CIFAR100, root / which.unpacked[0], spool)
        return _with_notes(which, replace(source, metric=which.metric))
    if name == "caltech101":
        classes, placed = _caltech101(root / which.unpacked[0], faults)
    elif name == "sun397":
        classes, placed = _sun397(root)
    else:
        classes, placed = _listed_by_torchvision(which, root)
    source = Source(
        name=name,
        classes=classes,
        items=Items(_item(which, root, *image) for image in placed),
        read=read_image,
        faults=faults,
        metric=which.metric,
    )
    return _with_notes(which, source)


def read_image(item: Item) -> bytes:
    """Encoded bytes of an item: its own; Pets and SUN397 call a few GIFs .jpg, whose first picture becomes a PNG."""
    data = read_stored(item)
    if data.startswith((b"GIF8", b"BM")):
        return encode_png(np.asarray(decode_image(data, ("GIF", "BMP")).pixels))
    return data


def _listed_by_torchvision(which: TransferSet, root: Path) -> tuple[tuple[str, ...], Iterable[Placed]]:
    """Class names, and images in the order of torchvision."""
    splits = [*(("train", name) for name in which.train), ("test", "test")]
    opened = [(split, name, _opened(which, root, name)) for split, name in splits]
    classes = tuple(str(name) for name in opened[0][2].classes)
    for _, name, dataset in opened:
        if tuple(dataset.classes) != classes:
            raise DataError(
                f"{root}: splits {splits[0][1]} and {name} of {which.title} have not the same classes; their lists are "
                "not whole, unpack them again"
            )
    return classes, (
        (split, int(label), Path(path)) for split, _, dataset in opened for path, label in _paths_and_labels(dataset)
    )


def _opened(which: TransferSet, root: Path, split: str) -> Any:
    from torchvision import datasets

    # A loader that returns the path lets torchvision list without decoding. Its Pets take none.
    loader = {} if which.torchvision == "OxfordIIITPet" else {"loader": Path}
    try:
        return getattr(datasets, which.torchvision)(str(root), split, **loader)
    except Exception as error:  # noqa: BLE001  # of whatever reads its lists: json, scipy, str.split
        reason = (
            f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        )
        raise DataError(
            f"{root}: split {split} of {which.title} cannot be listed ({reason}); unpack its archives again"
        ) from None


def _paths_and_labels(dataset: Any) -> Iterator[tuple[Path, int]]:
    if hasattr(dataset, "_images"):  # those of Pets; there is no public way to them
        return zip(dataset._images, dataset._labels, strict=True)
    return (dataset[number] for number in range(len(dataset)))


def _caltech101(directory: Path, faults: list[Fault]) -> tuple[tuple[str, ...], Iterable[Placed]]:
    """102 classes, the background among them; 30 images of each are train, the rest is test."""
    by_class: dict[str, list[Path]] = {}
    for file in list_directory(directory):
        if is_image(file):
            by_class.setdefault(file.name.partition("/")[0], []).append(Path(file.path))
        elif file.name != "BACKGROUND_Google/tmp":  # left over in the archive
            faults.append(not_an_image(file))
    for name, paths in by_class.items():
        if len(paths) <= CALTECH_TRAIN:
            raise DataError(
                f"{directory / name}: {len(paths)} images; {CALTECH_TRAIN} to learn from and one to test are needed, "
                "unpack the archive again"
            )
    return tuple(by_class), (
        ("train" if place < CALTECH_TRAIN else "test", label, paths[row])
        for label, paths in enumerate(by_class.values())
        for place, row in enumerate(_shuffled(label, len(paths)))
    )


def _shuffled(label: int, count: int) -> list[int]:
    rows: list[int] = np.argsort(hash64(split_word("caltech101"), label, np.arange(count)), kind="stable").tolist()
    return rows


def _sun397(root: Path) -> tuple[tuple[str, ...], Iterable[Placed]]:
    """The first of its ten splits, whose lists come in an archive of their own."""
    names = _lines(_sun_list(root, "ClassName.txt"))
    labels = {name: label for label, name in enumerate(names)}
    placed = list[Placed]()
    for split, list_name in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        path = _sun_list(root, list_name)
        for line in _lines(path):
            directory = line.rpartition("/")[0]
            if directory not in labels:
                raise DataError(f"{path}: '{line}' lies in none of the classes of ClassName.txt; unpack the list again")
            placed.append((split, labels[directory], root / "SUN397" / line.lstrip("/")))
    return tuple(name[3:] for name in names), placed  # without the first letter, by which the directories are sorted


def _sun_list(root: Path, name: str) -> Path:
    places = (root / "SUN397", root / "SUN397" / "Partitions", root / "Partitions", root)
    for place in places:
        if (place / name).is_file():
            return place / name
    raise DataError(
        f"{places[0] / name}: no such file; torchvision does not fetch the lists of SUN397's splits: unpack "
        f"{PARTITIONS_URL} in {places[0]}"
    )


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except ValueError:
        raise DataError(f"{path}: not a text file in UTF-8; unpack it again") from None


def _item(which: TransferSet, root: Path, split: str, label: int, path: Path) -> Item:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}, but the lists of {which.title} name it; unpack its images again"
        ) from None
    return Item(split, label, path.relative_to(root).as_posix(), str(path), 0, size)


def _with_notes(which: TransferSet, source: Source) -> Source:
    """The source, checked for emptiness, with a word about what is not as the paper had it."""
    counts = tuple(len(source.items.rows_of(split)) for split in ("train", "test"))
    labels = source.items.labels
    if not all(counts):
        empty = "test" if counts[0] else "train"
        raise DataError(f"split {empty} of {which.title} is empty; unpack its lists again")
    if not 0 <= labels.min() <= labels.max() < len(source.classes):
        raise DataError(f"{which.title} has labels beyond its {len(source.classes)} classes; unpack its lists again")
    notes = list(source.notes)
    if (counts, len(source.classes)) != (which.images, which.classes):
        notes.append(
            f"{which.title} has {which.images[0]:,} + {which.images[1]:,} images in {which.classes} classes; here are "
            f"{counts[0]:,} + {counts[1]:,} in {len(source.classes)}, so scores will not compare"
        )
    return replace(source, notes=tuple(notes))
