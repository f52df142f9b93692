"""A data set directory small enough for a test, written without the builder."""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from webdataset import TarWriter

from pipelines.hashing import hash64, uniform
from pipelines.manifest import INDEX_DTYPE, UNLABELLED, Manifest, Shard, Split, write_manifest

SHARDS_PER_SPLIT = 2


def tiny_shards(
    directory: Path,
    images_per_class: int = 4,
    classes: int = 2,
    side: int = 8,
    *,
    splits: Sequence[str] = ("train", "test"),
    labelled: bool = True,
    encoding: str = "png",
    size: Callable[[int], tuple[int, int]] | None = None,
) -> Path:
    """Write shards, indices and manifest; every split has its own images.

    Args:
        directory: made if it is missing.
        images_per_class: in each split. Samples stand class after class in turn: sample i has label i mod classes.
        classes: their number; they are named class0, class1 and so on, and differ in colour.
        side: of the square images in pixels.
        splits: their names. Each is spread over two shards.
        labelled: False leaves out the labels and the class names.
        encoding: png, from which `tiny_image` comes back exactly, or jpg.
        size: (height, width) of sample i instead of the square.

    Returns:
        The directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    samples = images_per_class * classes
    written, pixels = {}, []
    for split in splits:
        images = [
            tiny_image(split, i, i % classes, *(size(i) if size is not None else (side, side))) for i in range(samples)
        ]
        labels = [i % classes if labelled else UNLABELLED for i in range(samples)]
        written[split] = _write_split(directory, split, images, labels, encoding)
        if split == splits[0]:
            pixels = [image.reshape(-1, 3) for image in images]
    flat = np.concatenate(pixels) / 255
    manifest = Manifest(
        name="tiny",
        classes=tuple(f"class{i}" for i in range(classes)) if labelled else (),
        splits=written,
        statistics={"mean": flat.mean(axis=0).tolist(), "std": flat.std(axis=0).tolist()},
        made={"by": "tests/tiny_shards.py"},
    )
    write_manifest(directory, manifest)
    return directory


def tiny_image(split: str, number: int, label: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Noise about the colour of a class: (height, width, 3), the same at every call, different for every sample."""
    colour = 64 + 128 * uniform(hash64(label, np.arange(3)))
    noise = uniform(hash64(zlib.crc32(split.encode()), number, np.arange(height * width * 3))) - 0.5
    return (colour + 96 * noise.reshape(height, width, 3)).clip(0, 255).astype(np.uint8)


def _write_split(
    directory: Path, split: str, images: Sequence[npt.NDArray[np.uint8]], labels: Sequence[int], encoding: str
) -> Split:
    records = np.zeros(len(images), dtype=INDEX_DTYPE)
    shards = []
    for number, rows in enumerate(np.array_split(np.arange(len(images)), SHARDS_PER_SPLIT)):
        path = directory / f"{split}-{number:06d}.tar"
        with path.open("wb") as stream, TarWriter(stream, mtime=0) as tar:
            for row in rows:
                sample = {"__key__": f"{row:06d}", encoding: _encode(images[row], encoding)}
                tar.write(sample if labels[row] == UNLABELLED else sample | {"cls": labels[row]})
        with tarfile.open(path) as tar:
            members = [member for member in tar if member.name.endswith(encoding)]
        data = path.read_bytes()
        for row, member in zip(rows, members, strict=True):
            image = data[member.offset_data : member.offset_data + member.size]
            height, width, _ = images[row].shape
            crc32 = zlib.crc32(image)
            records[row] = (number, member.offset_data, member.size, crc32, labels[row], height, width)
        shards.append(
            Shard(file=path.name, bytes=len(data), samples=len(rows), sha256=hashlib.sha256(data).hexdigest())
        )
    index = directory / f"{split}.index.npy"
    np.save(index, records)
    digest = hashlib.sha256(index.read_bytes()).hexdigest()
    return Split(samples=len(images), index_file=index.name, index_sha256=digest, shards=tuple(shards))


def _encode(image: npt.NDArray[np.uint8], encoding: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, {"png": "PNG", "jpg": "JPEG"}[encoding])
    return stream.getvalue()
