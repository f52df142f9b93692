"""What WebDataset calls a sample: consecutive members of a tar file whose names begin alike."""

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pipelines.remote.locations import is_remote
from pipelines.remote.remote_stream import RemoteStream
from pipelines.tools.tar_stream import BrokenTarError, TarMember

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png")
MAX_IMAGE_BYTES = 1 << 28
MAX_TEXT_BYTES = 1 << 24
NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TarSample:
    """The members with one key, by the rest of their names in lower case, in their order."""

    key: str
    members: dict[str, TarMember]

    @property
    def images(self) -> list[str]:
        """Extensions of the members that are named as images, such as jpg and thumbnail.png."""
        return [extension for extension in self.members if kind_of(extension) in IMAGE_EXTENSIONS]

    def idx_line(self) -> str:
        """What DALI's index says of it: extensions as they stand in the names."""
        start = len(self.key) + 1
        return " ".join(f"{m.name[start:]} {m.offset} {m.size} {m.name}" for m in self.members.values())


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member: what stands before and after the first dot of its file name.

    Both are empty for names that WebDataset passes over: those without a dot, or with one in front.
    """
    match = NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match else ("", "")


def printable(name: str) -> str:
    """A name as it may be shown: line breaks, tabs and what else would move a terminal's cursor, as backslashes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def kind_of(extension: str) -> str:
    """The last part of an extension."""
    return extension.rpartition(".")[2]


def most_bytes(name: str) -> int:
    """How long a member may be to be read: images, labels and descriptions are."""
    kind = kind_of(split_name(name)[1])
    if kind in IMAGE_EXTENSIONS:
        return MAX_IMAGE_BYTES
    return MAX_TEXT_BYTES if kind in ("cls", "json") else 0


def tar_samples(members: Iterable[TarMember]) -> Iterator[TarSample]:
    """Group members.

    Raises:
        BrokenTarError: as the members do, after what there is of the last sample.
    """
    key, found = "", dict[str, TarMember]()
    try:
        for member in members:
            member_key, extension = split_name(member.name)
            if not member_key:
                continue
            if found and (member_key != key or extension in found):
                yield TarSample(key, found)
                found = {}
            key = member_key
            found[extension] = member
    except BrokenTarError:
        if found:
            yield TarSample(key, found)
        raise
    if found:
        yield TarSample(key, found)


def open_shard(location: str, *, whole: bool = True) -> AbstractContextManager[Any]:
    """A shard as a binary file, to be read from front to back.

    Args:
        location: path or URL.
        whole: all of it will be read, not only here and there.

    Raises:
        OSError: it cannot be opened; where it is remote, the first read raises that.
        DataError: see `file_system`.
    """
    if not is_remote(location):
        return open(location, "rb", buffering=1 << 20 if whole else 1 << 12)  # noqa: PTH123  (a path that may begin with anything)
    return RemoteStream(location)
