"""The builder as a contestant, and the least that a builder could do."""

import io
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def ours(source: str, small: str, directory: str) -> Iterator[int]:
    """Whole builds in this process, the first of them of the small source."""
    from pipelines.build_shards import main

    def build(archive: str, output: Path) -> None:
        if main(["folder", "--source", archive, "--output", str(output), "--workers", "1"]):
            raise RuntimeError(f"the build of {archive} failed")

    return _in_turn(build, source, small, Path(directory))


def bare(source: str, small: str, directory: str) -> Iterator[int]:
    """Read each image, decode it to its last pixel with Pillow and write its bytes into a tar."""
    from PIL import Image

    def copy(archive: str, output: Path) -> None:
        with tarfile.open(archive) as images, tarfile.open(output, "w") as written:
            for member in images:
                file: Any = images.extractfile(member)
                data = file.read()
                Image.open(io.BytesIO(data)).convert("RGB")
                written.addfile(member, io.BytesIO(data))

    return _in_turn(copy, source, small, Path(directory))


def write_archive(images: list[bytes], output: Path, count: int) -> None:
    """Write a tar of ten classes, the images in turn until there are `count`."""
    with tarfile.open(output, "w") as tar:
        for number in range(count):
            data = images[number % len(images)]
            member = tarfile.TarInfo(f"train/{number % 10}/{number:07d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _in_turn(build: Callable[[str, Path], None], source: str, small: str, directory: Path) -> Iterator[int]:
    """Build the small source, then the other again and again; yield how many images each held."""
    counts = {archive: _count(archive) for archive in (small, source)}
    archive, output = small, directory / "built"
    while True:
        build(archive, output)
        (shutil.rmtree if output.is_dir() else Path.unlink)(output)
        yield counts[archive]
        archive = source


def _count(archive: str) -> int:
    with tarfile.open(archive) as tar:
        return sum(1 for _ in tar)
