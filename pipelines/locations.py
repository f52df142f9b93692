"""Where files lie: a local path, or a URL of any kind that fsspec reads (s3://, gs://, https://, ...)."""

import os
import posixpath
from pathlib import Path
from typing import Any

from pipelines.errors import DataError


def is_remote(location: str) -> bool:
    """Whether it is a URL rather than a path of this machine."""
    return "://" in location


def join(directory: str, file: str) -> str:
    """Where a file that a data set directory names lies: beside the directory's files, or where an absolute name says."""
    if is_remote(file) or file.startswith("/"):
        return file
    if not is_remote(directory):
        return os.path.normpath(Path(directory) / file)
    protocol, _, path = directory.partition("://")
    return f"{protocol}://{posixpath.normpath(posixpath.join(path, file))}"


def file_system(location: str) -> Any:
    """The fsspec file system of a URL.

    Raises:
        DataError: no such protocol, or its package is not installed.
    """
    import fsspec

    protocol = location.partition("://")[0]
    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        raise DataError(f"{location}: {error}; `pip install 'diptych[remote]'` brings s3, gs and http") from None


def read_file(location: str) -> bytes:
    """All bytes of a file.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be read.
        DataError: see `file_system`.
    """
    if not is_remote(location):
        return Path(location).read_bytes()
    return bytes(_answer(location, lambda files: files.cat_file(location)))


def file_size(location: str) -> int:
    """Bytes of a file.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be asked for, or the server does not say its size.
        DataError: see `file_system`.
    """
    if not is_remote(location):
        return Path(location).stat().st_size
    size = _answer(location, lambda files: files.info(location)["size"])
    if size is None:
        raise OSError(None, "the server does not say its size")
    return int(size)


def _answer(location: str, ask: Any) -> Any:
    """What a file system answers; whatever a protocol's library raises becomes OSError."""
    files = file_system(location)
    try:
        return ask(files)
    except OSError:
        raise
    except Exception as error:  # every protocol's library has exceptions of its own
        raise OSError(None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
