"""Raw images, and trees and archives of them, for the tests of the builder."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.hashing import hash64

Tree = dict[str, bytes]
"""Content by relative path."""


def encoded(number: int, kind: str = "jpeg", height: int = 6, width: int = 9, orientation: int | None = None) -> bytes:
    """A noise image, different for every number."""
    pixels = (hash64(number, np.arange(height * width * 3)) % np.uint64(256)).astype(np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(height, width, 3)).save(buffer, kind, exif=exif.tobytes() if orientation else b"")
    return buffer.getvalue()


def labelled_tree(train: int = 4, test: int = 2) -> Tree:
    """Classes cat and dog, with so many images each in train/ and test/."""
    counts = {"train": train, "test": test}
    paths = [
        f"{split}/{name}/{n}.jpg" for split, count in counts.items() for name in ("cat", "dog") for n in range(count)
    ]
    return {path: encoded(number) for number, path in enumerate(paths)}


def write_tree(root: Path, tree: Tree) -> Path:
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def tar_bytes(tree: Tree) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write_archive(path: Path, tree: Tree) -> Path:
    """A zip, tar.gz or tar, after the suffix."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in tree.items():
                archive.writestr(name, content)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(tar_bytes(tree)))
    else:
        path.write_bytes(tar_bytes(tree))
    return path
