"""Tar files read once, from front to back: every member with its place, whatever is wrong, and the hash of all bytes.

Not `tarfile`, which takes a damaged header for the end of the archive, and whose members would have to be hashed in a
second pass.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

BLOCK_BYTES = tarfile.BLOCKSIZE
CHUNK_BYTES = 1 << 20
MAX_EXTENSION_BYTES = 1 << 20
"""Of a long name or of pax records."""
NAME_ERRORS = "backslashreplace"
"""Names that are not UTF-8 stay distinct and can be printed."""
PAX_RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")
PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
NAMING_TYPES = (tarfile.GNUTYPE_LONGNAME, *PAX_TYPES)
"""Of members that hold the name of the next one."""
END_MARK = bytes(BLOCK_BYTES)


class BrokenTarError(Exception):
    """The rest of a tar file is lost; `reason` is one word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member of a tar file that is not a directory."""

    name: str
    offset: int
    """Of its first byte in the tar file."""
    size: int
    content: bytes | None
    """None where it was not wanted or has a problem."""
    problem: str = ""
    """Why it has no content: a link, a sparse file, too long."""


class TarStream:
    """A file that is read forward only, by one reader, and hashed on the way."""

    def __init__(self, file: Any, *, hashed: bool) -> None:
        """Wrap a binary file; one that is not hashed must be seekable, for what is skipped is then not read."""
        self._file = file
        self._hashed = hashed
        self.position = 0
        self.sha256 = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end of the file."""
        data = self._read_some(size)
        if len(data) == size or not data:
            return data
        parts = [data]  # streams from the network return what has arrived
        while (missing := size - sum(map(len, parts))) and (data := self._read_some(missing)):
            parts.append(data)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Move forward, perhaps past the end."""
        if not self._hashed:
            self._file.seek(size, io.SEEK_CUR)
            self.position += size
            return
        while size and (data := self.read(min(size, CHUNK_BYTES))):
            size -= len(data)

    def read_rest(self) -> bool:
        """Read to the end, and tell whether there was anything but zeros."""
        anything = False
        while data := self.read(CHUNK_BYTES):
            anything = anything or data.count(0) != len(data)
        return anything

    def _read_some(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        self.position += len(data)
        if self._hashed:
            self.sha256.update(data)
        return data


def tar_members(stream: TarStream, most_bytes: Callable[[str], int]) -> Iterator[TarMember]:
    """Every member but directories, up to the end mark.

    Args:
        stream: at the start of the file.
        most_bytes: how long a member of a name may be for its content to be read; 0 if it is not wanted.

    Raises:
        BrokenTarError: `not_a_tar`; `truncated_tar`, also if just the end mark is missing; `damaged_tar`.
    """
    long_name, pax = "", dict[str, str]()
    while (header := _next_header(stream)) is not None:
        info, block = header
        if info.type in PAX_TYPES:
            pax = _pax_records(_extension(stream, info.size))
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            long_name = _extension(stream, info.size).rstrip(b"\0").decode("utf-8", NAME_ERRORS)
        elif info.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
            _extension(stream, info.size)
        else:
            if info.type == tarfile.GNUTYPE_SPARSE:
                _skip_sparse_map(stream, block)
            member = _member(stream, info, pax.get("path") or long_name or info.name, pax, most_bytes)
            long_name, pax = "", {}
            if member:
                yield member


def name_before(block: bytes) -> str | None:
    """Name of the member whose content begins where a stretch of a tar file ends, or None if no header stands there.

    Args:
        block: the bytes before the content, whole blocks; with all of what goes before the header if the name is long.
    """
    header = _parsed(block[-BLOCK_BYTES:])
    if header is None:
        return None
    for blocks in range(1, len(block) // BLOCK_BYTES - 1):
        start = len(block) - (blocks + 2) * BLOCK_BYTES
        if block[start + 156 : start + 157] not in NAMING_TYPES:  # spares nearly all the parsing
            continue
        before = _parsed(block[start : start + BLOCK_BYTES])
        if before is None or -(-before.size // BLOCK_BYTES) != blocks:
            continue
        content = block[start + BLOCK_BYTES :][: before.size]
        if before.type == tarfile.GNUTYPE_LONGNAME:
            return content.rstrip(b"\0").decode("utf-8", NAME_ERRORS)
        return _pax_records(content).get("path") or header.name
    return header.name


def _parsed(block: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", NAME_ERRORS)
    except (tarfile.TarError, ValueError):
        return None


def _next_header(stream: TarStream) -> tuple[tarfile.TarInfo, bytes] | None:
    start = stream.position
    block = stream.read(BLOCK_BYTES)
    if block == END_MARK:
        return None
    info = _parsed(block)
    if info is None or info.size < 0:
        if start == 0:
            raise BrokenTarError("not_a_tar", _what_instead(block))
        if len(block) < BLOCK_BYTES:
            raise BrokenTarError("truncated_tar", f"ends before byte {start + BLOCK_BYTES} without an end mark")
        raise BrokenTarError("damaged_tar", f"no tar header at byte {start}")
    return info, block


def _what_instead(block: bytes) -> str:
    if block[:2] == b"\x1f\x8b":
        return "a gzip file, in which samples have no place of their own: unpack it first (gunzip)"
    return "no tar header at its start" if block else "an empty file"


def _member(
    stream: TarStream, info: tarfile.TarInfo, name: str, pax: dict[str, str], most_bytes: Callable[[str], int]
) -> TarMember | None:
    try:
        size = int(pax.get("size", info.size))
    except ValueError:
        size = -1
    if size < 0:
        raise BrokenTarError("damaged_tar", f"{name}: a size of {pax['size']!r}")
    if not info.isreg():
        if info.type not in tarfile.SUPPORTED_TYPES:
            _skip_content(stream, size)
        return None if info.isdir() else TarMember(name, stream.position, 0, None, "a link or a device, not a file")
    offset = stream.position
    if info.type == tarfile.GNUTYPE_SPARSE or any(record.startswith("GNU.sparse.") for record in pax):
        _skip_content(stream, size)
        return TarMember(pax.get("GNU.sparse.name", name), offset, size, None, "a sparse file, not stored as it is")
    most = most_bytes(name)
    if size > most:
        _skip_content(stream, size)
        return TarMember(name, offset, size, None, f"{size} bytes; at most {most} are allowed" if most else "")
    content = stream.read(size)
    if len(content) < size:
        raise BrokenTarError("truncated_tar", f"ends at byte {stream.position}, within {name}")
    stream.skip(-size % BLOCK_BYTES)
    return TarMember(name, offset, size, content)


def _skip_content(stream: TarStream, size: int) -> None:
    stream.skip(size + -size % BLOCK_BYTES)


def _skip_sparse_map(stream: TarStream, block: bytes) -> None:
    extended = block[482]
    while extended and len(block := stream.read(BLOCK_BYTES)) == BLOCK_BYTES:
        extended = block[504]


def _extension(stream: TarStream, size: int) -> bytes:
    if size > MAX_EXTENSION_BYTES:
        raise BrokenTarError("damaged_tar", f"a name or pax header of {size} bytes before byte {stream.position}")
    content = stream.read(size)
    stream.skip(-size % BLOCK_BYTES)
    return content


def _pax_records(content: bytes) -> dict[str, str]:
    records, place = dict[str, str](), 0
    while match := PAX_RECORD.match(content, place):
        end = place + int(match[1])
        if end <= match.end():
            break
        records[match[2].decode("utf-8", NAME_ERRORS)] = content[match.end() : end - 1].decode("utf-8", NAME_ERRORS)
        place = end
    return records
