"""Files of a directory or of an archive, as places from which they can be read at any time and in any order."""

import gzip
import itertools
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pipelines.errors import DataError


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Where the bytes of one file lie."""

    name: str
    """Relative to the directory or archive, with slashes."""
    path: str
    """File to read from."""
    offset: int
    size: int


def read_at(path: str, offset: int, size: int) -> bytes:
    """Read a stretch of a file.

    Raises:
        OSError: it cannot be read, or ends early.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise OSError(None, f"{len(data)} bytes instead of {size}: the file changed while it was read")
    return data


def list_directory(root: Path) -> list[StoredFile]:
    """Every file below a directory that is not hidden, by name. Symbolic links are followed.

    Raises:
        DataError: a link leads back to a directory above it or nowhere, or an entry is a device, pipe or socket.
    """
    return sorted(_walk(root, PurePosixPath(), ancestors=()), key=lambda file: file.name)


def list_archive(path: Path, spool: Path) -> list[StoredFile]:
    """Every file in a tar, tar.gz or zip archive that is not hidden, by name. Nothing is extracted.

    A plain tar is read in place. Others are written, uncompressed, to `spool`, which must live as long as the result
    is read.

    Raises:
        DataError: not such an archive, damaged, or a member could escape a directory, is a link or a device, is
            encrypted, or comes twice.
    """
    try:
        files = sorted(_archive_files(path, spool), key=lambda file: file.name)
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a tar, tar.gz or zip archive, or a damaged one ({error})") from None
    for file, following in itertools.pairwise(files):
        if file.name == following.name:
            raise DataError(f"{path}: member {file.name!r} comes twice")
    return files


def tar_files(path: Path, stored: Path, start: int = 0, end: int | None = None) -> Iterator[StoredFile]:
    """Every file in a plain tar that is not hidden, in the tar's order.

    Args:
        path: for messages.
        stored: file that holds the tar, perhaps among other things.
        start: of the tar in that file.
        end: first byte behind it, where it does not end with the file.

    Raises:
        DataError: a member could escape a directory, is a link or a device, or the tar has no end mark.
        tarfile.TarError: it is not a tar.
    """
    with stored.open("rb") as file:
        os.posix_fadvise(file.fileno(), start, 0, os.POSIX_FADV_RANDOM)  # headers alone are read, far apart
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else a kilobyte per member stays in memory
                name = _safe_name(path, member.name)
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(
                        f"{path}: member {member.name!r} is not a regular file (a link, device or sparse file)"
                    )
                if not _hidden(name):
                    yield StoredFile(str(name), str(stored), member.offset_data, member.size)
            # tarfile takes an unreadable header, or the end of the file, for the end of the archive
            file.seek(archive.offset)
            mark = file.read(tarfile.BLOCKSIZE)
            if mark != bytes(tarfile.BLOCKSIZE) or (end is not None and file.tell() > end):
                raise DataError(f"{path}: the archive is damaged or truncated (no end mark after its last member)")


def _walk(root: Path, below: PurePosixPath, ancestors: tuple[tuple[int, int], ...]) -> Iterator[StoredFile]:
    status = (root / below).stat()
    here = (status.st_dev, status.st_ino)
    if here in ancestors:
        raise DataError(f"{root / below}: a symbolic link to a directory above it")
    with os.scandir(root / below) as entries:
        for entry in entries:
            name = below / entry.name
            if _hidden(name):
                continue
            if entry.is_dir():
                yield from _walk(root, name, (*ancestors, here))
            elif entry.is_file():
                yield StoredFile(str(name), entry.path, 0, entry.stat().st_size)
            else:
                raise DataError(f"{entry.path}: neither a file nor a directory, or a broken link")


def _archive_files(path: Path, spool: Path) -> Iterator[StoredFile]:
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start[:2] == b"\x1f\x8b":
            with gzip.open(file) as source, spool.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            yield from tar_files(path, stored=spool)
        elif start in (b"PK\x03\x04", b"PK\x05\x06"):
            yield from _zip_files(path, file, spool)
        else:
            yield from tar_files(path, stored=path)


def _zip_files(path: Path, file: BinaryIO, spool: Path) -> Iterator[StoredFile]:
    with zipfile.ZipFile(file) as archive, spool.open("wb") as target:
        members = archive.infolist()
        needed, free = sum(member.file_size for member in members), shutil.disk_usage(spool.parent).free
        if needed > free:
            raise DataError(f"{path}: {needed} bytes unpacked, but {free} are free in {spool.parent}")
        for member in members:
            name = _safe_name(path, member.filename.replace("\\", "/"))  # some Windows programs write backslashes
            if member.is_dir():
                continue
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                raise DataError(f"{path}: member {member.filename!r} is not a regular file (a link or device)")
            if member.flag_bits & 0x1:
                raise DataError(f"{path}: member {member.filename!r} is encrypted")
            if not _hidden(name):
                offset = target.tell()
                with archive.open(member) as source:
                    shutil.copyfileobj(source, target, 1 << 20)
                yield StoredFile(str(name), str(spool), offset, target.tell() - offset)


def _safe_name(path: Path, member_name: str) -> PurePosixPath:
    name = PurePosixPath(member_name)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{path}: member {member_name!r} would escape the directory into which it is unpacked")
    return name


def _hidden(name: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
