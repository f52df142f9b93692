"""The same images in every contestant's form, made once and kept in a directory of the benchmark's own."""

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ops.bench.measure import call_alone
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex, open_split
from train.errors import RunError

_TEXTURES = 20_000
_IMAGENET_COPIES = 16


@dataclass(frozen=True, kw_only=True)
class Images:
    """One data set in several forms; what a peer that is not there would have made does not exist."""

    shards: Path
    """Data set directory, whose train split is read."""
    count: int
    canvas: int
    """Side of every image in pixels."""
    directory: Path
    """Holds files/, raw.beton, jpg.beton, same.beton and litdata/."""
    tars: list[str]
    """Paths of the shards."""


def textures(work: Path) -> Path:
    """Shards of procedural 32-pixel textures as JPEGs, for want of others."""
    options = ("--train-count", str(_TEXTURES), "--test-count", "10", "--format", "jpeg")
    return _shards(work / "textures", lambda path: build_shards("textures", "--output", str(path), *options))


def imagenet_canvases(source: Path, work: Path, canvas: int) -> Path:
    """Shards of ImageNet files as `--resize canvas:S` stores them, each image 16 times, so that an epoch lasts."""
    name = f"imagenet-{canvas}"
    options = ("--resize", f"canvas:{canvas}")
    stored = _shards(
        work / f"{name}-once",
        lambda path: build_shards("imagenet", "--source", str(source), "--output", str(path), *options),
    )

    def repeat(output: Path) -> None:
        with TemporaryDirectory(dir=work) as directory:
            archive = Path(directory) / "images.tar"
            with tarfile.open(archive, "w") as tar:
                for number, (image, extension) in enumerate(encoded_images(open_split(stored, "train"))):
                    path = Path(directory) / "image"
                    path.write_bytes(image)
                    for copy in range(_IMAGENET_COPIES):
                        tar.add(path, f"train/{number:05d}-{copy:02d}.{extension}")
            build_shards("folder", "--source", str(archive), "--output", str(output), "--name", name)

    return _shards(work / name, repeat)


def prepare(shards: Path, work: Path, canvas: int, peer_python: str, *, raw: bool) -> Images:
    """Make all forms that are not there yet, and read the shards once, so that they lie in the page cache.

    Args:
        shards: data set directory of square JPEGs.
        work: where to keep the forms.
        canvas: side of every image.
        peer_python: in which FFCV and LitData may be installed.
        raw: whether FFCV's file of pixels is wanted as well.

    Raises:
        RunError: the images are not JPEGs of that size, or FFCV or LitData fails.
    """
    split = open_split(shards, "train")
    if (split.manifest.resize, canvas) != (f"canvas:{canvas}", canvas) and not (
        (split.samples["height"] == canvas) & (split.samples["width"] == canvas)
    ).all():
        raise RunError(f"{shards}: its images are not all of {canvas}x{canvas} pixels")
    directory = _directory(split, work)
    files = image_files(split, work)
    if any(path.suffix != ".jpg" for path in files.iterdir()):
        raise RunError(f"{shards}: not all images are JPEGs; build it with --format jpeg")
    for mode in ("jpg", "same", "raw") if raw else ("jpg", "same"):
        write = partial(_call, peer_python, "peer_ffcv:write", files, mode=mode)
        _once(directory / f"{mode}.beton", write)
    _once(directory / "litdata", partial(_call, peer_python, "peer_litdata:write", files))
    for path in directory.rglob("*"):
        if path.is_file():
            path.read_bytes()
    tars = [split.shard_location(shard) for shard in range(len(split.shards))]
    for tar in tars:
        Path(tar).read_bytes()
    return Images(shards=shards, count=len(split), canvas=canvas, directory=directory, tars=tars)


def image_files(split: SplitIndex, work: Path) -> Path:
    """A directory of the images of a split, each a file, made once."""
    return _once(_directory(split, work) / "files", lambda path: _export(split, path))


def _directory(split: SplitIndex, work: Path) -> Path:
    directory = work / f"{split.manifest.name}-{split.manifest.fingerprint[:16]}"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def build_shards(*arguments: str) -> None:
    """Run our builder.

    Raises:
        RunError: it failed.
    """
    command = [sys.executable, "-m", "pipelines.build_shards", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own module
    if done.returncode:
        raise RunError(f"{' '.join(command[2:])}: {' '.join(done.stderr.split())}")


def encoded_images(split: SplitIndex) -> list[tuple[bytes, str]]:
    """Images of local shards and their extensions, in stored order."""
    images = []
    for number in range(len(split.shards)):
        with Path(split.shard_location(number)).open("rb") as shard:
            for record in split.samples[split.samples["shard"] == number]:
                shard.seek(int(record["offset"]))
                data = shard.read(int(record["size"]))
                images.append((data, "jpg" if data.startswith(b"\xff\xd8") else "png"))
    return images


def _shards(path: Path, make: Callable[[Path], None]) -> Path:
    """Make a data set directory unless one of the present format is there."""
    if path.exists():
        try:
            open_split(path, "train")
        except DataError:
            shutil.rmtree(path)
    return _once(path, make)


def _once(path: Path, make: Callable[[Path], None]) -> Path:
    """Make a file or directory unless it is there; it appears whole or not at all."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as directory:
        partial = Path(directory) / path.name
        make(partial)
        if partial.exists():
            shutil.move(partial, path)
    return path


def _call(python: str, function: str, files: Path, output: Path, **options: str) -> None:
    """Have a peer write; one that is not installed writes nothing."""
    paths = {"files": str(files.resolve()), "output": str(output.resolve())}
    answer = call_alone(f"ops.bench.{function}", {**paths, **options}, python)
    if "error" in answer:
        raise RunError(f"{function}: {answer['error']}")


def _export(split: SplitIndex, output: Path) -> None:
    output.mkdir()
    for number, (image, extension) in enumerate(encoded_images(split)):
        (output / f"{number:07d}.{extension}").write_bytes(image)
