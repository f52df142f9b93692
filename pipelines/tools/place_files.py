"""Files that appear in a directory that is in use: all of them complete, the manifest last, or none."""

import os
from collections.abc import Iterable
from pathlib import Path

from pipelines.errors import DataError
from pipelines.manifest import MANIFEST_NAME


def refuse_present(directory: Path, names: Iterable[str]) -> None:
    """Check that none of the files is there yet.

    Raises:
        DataError: one is.
    """
    for name in names:
        if (directory / name).exists():
            raise DataError(f"{directory / name}: exists already; --overwrite replaces it and all that belongs to it")


def place_files(finished: Path, directory: Path) -> None:
    """Bring files to disk and move them to a directory of the same file system; what is there is replaced.

    Args:
        finished: holds the files; one is a manifest, without which the others mean nothing.
        directory: where to.
    """
    paths = sorted(finished.iterdir(), key=lambda path: path.name == MANIFEST_NAME)
    for path in paths:
        _sync(path)
    (directory / MANIFEST_NAME).unlink(missing_ok=True)  # the old one never stands beside new files
    for path in paths:
        path.rename(directory / path.name)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
