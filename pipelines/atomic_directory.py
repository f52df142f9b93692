"""A directory that appears complete, and safely on disk, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import DataError


def refuse_used(output: Path) -> None:
    """Check that `publish` will be able to put a directory here.

    Raises:
        DataError: something is there already.
    """
    if output.is_mount():
        raise DataError(f"{output}: a mount point, which cannot be replaced at one stroke; name a directory inside it")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise DataError(f"{output}: exists and is not an empty directory; remove it or choose another --output")


@contextmanager
def work_directory(output: Path) -> Iterator[Path]:
    """A directory beside the output, on the same file system, that goes away whatever happens.

    Raises:
        DataError: it is there already.
    """
    work = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        work.mkdir(parents=True)
    except FileExistsError:  # containers give the same number again
        raise DataError(f"{work}: left by a build that was killed, or in use by another; remove it") from None
    try:
        yield work
    finally:
        shutil.rmtree(work)


def publish(finished: Path, output: Path) -> None:
    """Bring a directory of files to disk, then let it appear under its final name."""
    for path in (*finished.iterdir(), finished):
        sync(path)
    finished.rename(output)
    sync(output.parent)


def sync(path: Path) -> None:
    """Bring a file or a directory's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
