"""The paper's transfer sets in small, laid out as torchvision's classes unpack and read them."""

import io
import json
import pickle
from collections.abc import Callable
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
from raw_images import Tree, encoded
from scipy.io import savemat

from pipelines.build.cifar import CifarSet
from pipelines.build.transfer_sets import TRANSFER_SETS
from pipelines.hashing import hash64

Placed = dict[str, tuple[str, str]]
"""Split and class by path of the image."""
Layout = tuple[Tree, Placed]
"""All files, and what should become of the images."""


def food101() -> Layout:
    placed, lists = Placed(), dict[str, dict[str, list[str]]]()
    for split, count in (("train", 3), ("test", 2)):
        lists[split] = {}
        for name in ("waffles", "apple_pie"):  # not in order
            keys = [f"{name}/{split}{number}" for number in range(count)]
            lists[split][name] = keys
            placed |= {f"food-101/images/{key}.jpg": (split, name) for key in keys}
    files = {f"food-101/meta/{split}.json": json.dumps(content).encode() for split, content in lists.items()}
    return files | images(placed), placed


def flowers102() -> Layout:
    splits = {"trnid": [7, 2], "valid": [1, 4], "tstid": [3, 5, 6]}
    labels = [1, 102, 1, 102, 17, 1, 17]  # from 1 on, of images 1 to 7
    names = {1: "pink primrose", 17: "purple coneflower", 102: "blackberry lily"}
    placed = {
        f"flowers-102/jpg/image_{number:05d}.jpg": ("test" if split == "tstid" else "train", names[labels[number - 1]])
        for split, numbers in splits.items()
        for number in numbers
    }
    files = {"flowers-102/imagelabels.mat": mat(labels=np.array([labels])), "flowers-102/setid.mat": mat(**splits)}
    return files | images(placed), placed


def pets() -> Layout:
    breeds = {"Abyssinian": "Abyssinian", "american_bulldog": "American Bulldog"}
    placed, files = Placed(), Tree()
    for split, list_name, first in (("train", "trainval", 1), ("test", "test", 4)):
        lines = []
        for label, (breed, name) in enumerate(breeds.items(), 1):
            for number in range(first, first + 3):
                lines.append(f"{breed}_{number} {label} {label} 1\n")
                placed[f"oxford-iiit-pet/images/{breed}_{number}.jpg"] = (split, name)
        files[f"oxford-iiit-pet/annotations/{list_name}.txt"] = "".join(lines).encode()
    return files | images(placed), placed


def dtd() -> Layout:
    placed, lists = Placed(), dict[str, list[str]]()
    for part in ("train", "val", "test"):
        for name in ("banded", "zigzagged"):
            file = f"{name}/{name}_{part}.jpg"
            lists.setdefault(part, []).append(file)
            placed[f"dtd/dtd/images/{file}"] = ("test" if part == "test" else "train", name)
    files = {f"dtd/dtd/labels/{part}1.txt": "\n".join(lines).encode() for part, lines in lists.items()}
    files |= {f"dtd/dtd/labels/{part}2.txt": b"banded/none.jpg" for part in lists}  # of the nine other splits
    return files | images(placed), placed


def aircraft() -> Layout:
    variants = ("707-320", "F/A-18", "Boeing 717")
    root = "fgvc-aircraft-2013b/data"
    placed, lists = Placed(), dict[str, list[str]]()
    for part, split in (("train", "train"), ("val", "train"), ("test", "test")):
        for number, name in enumerate(variants):
            file = f"{len(part)}{number:06d}"
            lists.setdefault(part, []).append(f"{file} {name}\n")
            placed[f"{root}/images/{file}.jpg"] = (split, name)
    lists["trainval"] = lists["train"] + lists["val"]
    files = {f"{root}/images_variant_{part}.txt": "".join(lines).encode() for part, lines in lists.items()}
    files[f"{root}/variants.txt"] = "\n".join(variants).encode()
    return files | images(placed), placed


def cars() -> Layout:
    names = ["AM General Hummer SUV 2000", "smart fortwo Convertible 2012"]
    placed, files = Placed(), Tree({"stanford_cars/devkit/cars_meta.mat": mat(class_names=np.array(names, object))})
    annotations = {
        "train": "stanford_cars/devkit/cars_train_annos.mat",
        "test": "stanford_cars/cars_test_annos_withlabels.mat",
    }
    for split, path in annotations.items():
        rows = [(f"{number:05d}.jpg", 1 + number % 2) for number in range(1, 5)]
        fields = np.array(rows, dtype=[("fname", object), ("class", object)])
        files[path] = mat(annotations=fields)
        placed |= {f"stanford_cars/cars_{split}/{file}": (split, names[label - 1]) for file, label in rows}
    return files | images(placed), placed


def caltech101() -> Layout:
    """Which images are train is not said: only 33 a class."""
    counts = {"BACKGROUND_Google": 33, "accordion": 31, "yin_yang": 35}
    root = "caltech101/101_ObjectCategories"
    placed = {
        f"{root}/{name}/image_{number:04d}.jpg": ("?", name)
        for name, count in counts.items()
        for number in range(1, count + 1)
    }
    return {f"{root}/BACKGROUND_Google/tmp": b"left over", **images(placed)}, placed


def sun397() -> Layout:
    names = ("/a/abbey", "/b/balcony/exterior")
    placed, files = Placed(), Tree({"SUN397/ClassName.txt": "\n".join(names).encode()})
    for split, list_name in (("train", "Training"), ("test", "Testing")):
        lines = [f"{name}/sun_{split}{number}.jpg" for name in names for number in range(2)]
        files[f"SUN397/{list_name}_01.txt"] = "\r\n".join(lines).encode()
        files[f"SUN397/{list_name}_02.txt"] = b"/a/abbey/sun_none.jpg"
        placed |= {f"SUN397{line}": (split, line[3:].rpartition("/")[0]) for line in lines}
    files["SUN397/a/abbey/sun_of_no_split.jpg"] = encoded(99)
    return files | images(placed), placed


LAYOUTS: dict[str, Callable[[], Layout]] = {
    "food101": food101,
    "flowers102": flowers102,
    "pets": pets,
    "dtd": dtd,
    "aircraft": aircraft,
    "cars": cars,
    "caltech101": caltech101,
    "sun397": sun397,
}


def cifar_pixels(batch: str) -> npt.NDArray[np.uint8]:
    """(4, 32, 32, 3) of a batch, by its name."""
    bits = hash64(crc32(batch.encode()), np.arange(4 * 32 * 32 * 3))
    return (bits % np.uint64(256)).astype(np.uint8).reshape(4, 32, 32, 3)


def cifar(which: CifarSet) -> Tree:
    """Python version; image i of each batch has label 2 i."""
    directory = TRANSFER_SETS[which.name].unpacked[0]
    file, key = which.python_names
    tree = {f"{directory}/{file}": pickle.dumps({key: [f"name{number}" for number in range(which.classes)]}, 2)}
    for batch, _ in which.batches:
        planes = cifar_pixels(batch).transpose(0, 3, 1, 2).reshape(4, 3072)
        content = {"data": np.ascontiguousarray(planes), which.labels_key: [0, 2, 4, 6], "coarse_labels": [1, 1, 1, 1]}
        tree[f"{directory}/{batch}"] = pickle.dumps(content, 2)
    return tree


def images(placed: Placed) -> Tree:
    """An image for every path."""
    return {path: encoded(number) for number, path in enumerate(placed)}


def mat(**content: Any) -> bytes:
    """A file of Matlab's."""
    buffer = io.BytesIO()
    savemat(buffer, content)
    return buffer.getvalue()
