"""ImageNet (ILSVRC2012, Russakovsky et al. 2015) from its official files, which are read in place, or unpacked.

    ILSVRC2012_img_train.tar            tars of classes in a tar, or train/nXXXXXXXX/*.JPEG
    ILSVRC2012_img_val.tar              ILSVRC2012_val_XXXXXXXX.JPEG, or val/*.JPEG, or val/nXXXXXXXX/*.JPEG
    ILSVRC2012_devkit_t12.tar.gz        labels of the validation images, or ILSVRC2012_devkit_t12/

A label is the position of the class's WordNet id among all of them, sorted: what libraries and published weights use.
"""

import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.build.archives import StoredFile, list_directory, tar_files
from pipelines.build.imagenet_devkit import DEVKIT, Devkit, read_devkit
from pipelines.build.items import Item, Items
from pipelines.build.sources import Fault, Source, is_image, not_an_image, read_stored
from pipelines.errors import DataError

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
WNID = re.compile(r"n\d{8}")
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)

Placed = tuple[StoredFile, str]
"""An image, and the WordNet id of its class."""


def imagenet_source(path: Path) -> Source:
    """List the images of train and, where it is there, of val.

    Raises:
        DataError: a file is missing, damaged or not what its name says, or classes do not agree.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such directory; expected {TRAIN_TAR} in it, or train/")
    devkit, notes, faults = read_devkit(path), list[str](), list[Fault]()
    train = list(_train_classes(path))
    classes = devkit.wnids if devkit else tuple(wnid for wnid, _ in train)
    labels = {wnid: label for label, wnid in enumerate(classes)}
    if unknown := sorted({wnid for wnid, _ in train} - set(classes)):
        raise DataError(f"{path}: class {unknown[0]} of train is not in the devkit; they do not belong together")
    if missing := len(classes) - len(train):
        notes.append(f"train has no images of {missing} of the devkit's {len(classes)} classes")
    val = _val_images(path, devkit)
    if val is None:
        notes.append(f"no {VAL_TAR} and no val/ in {path}: there will be no val split")

    def items() -> Iterator[Item]:
        in_train = ((file, wnid) for wnid, files in train for file in files)
        for split, placed in (("train", in_train), ("val", val or ())):
            for file, wnid in placed:
                if not is_image(file):
                    faults.append(not_an_image(file))
                elif wnid not in labels:
                    raise DataError(f"{path}: class {wnid} of {file.name} is not a class of train")
                else:
                    yield Item(split, labels[wnid], file.name, file.path, file.offset, file.size)

    try:
        listed = Items(items())
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path}: {TRAIN_TAR} or {VAL_TAR} is damaged ({error})") from None
    if "train" not in listed.splits:
        raise DataError(f"{path}: no images in {TRAIN_TAR} or train/")
    return Source(name="imagenet", classes=classes, items=listed, read=read_stored, faults=faults, notes=tuple(notes))


def _train_classes(path: Path) -> Iterator[tuple[str, Iterable[StoredFile]]]:
    """Classes by WordNet id, each with its images by name.

    Raises:
        DataError: there are none, or something else is among them.
    """
    tar, tree = path / TRAIN_TAR, path / "train"
    if tar.is_file():
        try:
            members = sorted(tar_files(tar, tar), key=lambda member: member.name)
        except tarfile.TarError as error:
            raise DataError(f"{tar}: not a tar, or a damaged one ({error})") from None
        for member in members:
            wnid, _, suffix = member.name.rpartition("/")[2].partition(".")
            if suffix != "tar" or not WNID.fullmatch(wnid):
                raise DataError(f"{tar}: member {member.name!r}; expected only tars of classes, such as n01440764.tar")
            yield wnid, _images_of_class(tar, member, wnid)
    elif tree.is_dir():
        for directory in sorted(tree.iterdir()):
            if not WNID.fullmatch(directory.name) or not directory.is_dir():
                raise DataError(f"{directory}: expected only directories of classes in train/, such as n01440764")
            yield directory.name, _below(list_directory(directory), f"train/{directory.name}")
    else:
        raise DataError(f"{path}: neither {TRAIN_TAR} nor train/ in it")


def _images_of_class(tar: Path, member: StoredFile, wnid: str) -> Iterator[StoredFile]:
    try:
        files = list(tar_files(tar, tar, member.offset, member.offset + member.size))
    except (tarfile.TarError, DataError) as error:
        raise DataError(f"{tar}: its member {member.name} is damaged ({error})") from None
    yield from _below(sorted(files, key=lambda file: file.name), f"train/{wnid}")


def _val_images(path: Path, devkit: Devkit | None) -> list[Placed] | None:
    """Images of the validation set by name; None if it is not there.

    Raises:
        DataError: it is damaged, or its images have no labels.
    """
    tar, tree = path / VAL_TAR, path / "val"
    if tar.is_file():
        try:
            files = sorted(_below(tar_files(tar, tar), "val"), key=lambda file: file.name)
        except tarfile.TarError as error:
            raise DataError(f"{tar}: not a tar, or a damaged one ({error})") from None
    elif tree.is_dir():
        files = list(_below(list_directory(tree), "val"))
    else:
        return None
    return [(file, _val_class(path, file, devkit)) for file in files]


def _val_class(path: Path, file: StoredFile, devkit: Devkit | None) -> str:
    directory = file.name.split("/")[1]
    if WNID.fullmatch(directory):
        return directory
    name = VAL_NAME.fullmatch(directory)
    if not is_image(file):
        return ""  # will be a fault
    if name is None:
        raise DataError(f"{path}: {file.name}: expected names such as ILSVRC2012_val_00000001.JPEG")
    if devkit is None:
        raise DataError(f"{path}: validation images without labels: no {DEVKIT}.tar.gz and no {DEVKIT}/")
    return devkit.val_class(int(name[1]))


def _below(files: Iterable[StoredFile], directory: str) -> Iterator[StoredFile]:
    """The same files under the names that they have in the unpacked tree."""
    return (StoredFile(f"{directory}/{file.name}", file.path, file.offset, file.size) for file in files)
