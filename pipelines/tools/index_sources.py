"""Which shards a SOURCE of the command line means, and which split each belongs to."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from pipelines.errors import DataError
from pipelines.remote.locations import as_os_error, file_system, is_remote

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
SPLIT_ORDER = ("train", "val", "test")


def expand_sources(sources: Sequence[str]) -> list[str]:
    """Absolute paths and URLs of the shards, in the order given; those of a directory by name.

    Args:
        sources: directories of tar files, tar files, URLs; a URL of a directory ends with a slash. {0000..0123} and
            {train,val} stand for many.

    Raises:
        DataError: a file is not there, a directory has no tar files, a shard comes twice, or braces do not match.
    """
    shards = [shard for source in sources for shard in _expand(source)]
    seen = set[str]()
    for shard in shards:
        if shard in seen:
            raise DataError(f"{shard}: named twice")
        seen.add(shard)
    return shards


def by_split(shards: Sequence[str]) -> dict[str, list[str]]:
    """Shards by the word in their file names that tells the split; train without one."""
    found: dict[str, list[str]] = {}
    for shard in shards:
        words = re.findall("[a-z]+", file_name(shard).lower())
        split = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "train")
        found.setdefault(split, []).append(shard)
    return {split: found[split] for split in SPLIT_ORDER if split in found}


def file_name(location: str) -> str:
    """Last component of a path or URL, without the URL's query."""
    return (location.partition("?")[0] if is_remote(location) else location).rpartition("/")[2]


def default_name(shards: Sequence[str]) -> str:
    """Name of the directory of the first shard."""
    directory = shards[0].rpartition("/")[0].rpartition("/")[2]
    return directory or file_name(shards[0]).partition(".")[0]


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names, one a line.

    Raises:
        DataError: a line is empty, a name comes twice, or there is none.
        OSError: the file cannot be read.
    """
    try:
        names = path.read_text().splitlines()
    except ValueError:
        raise DataError(f"{path}: not a text file in UTF-8") from None
    if not names:
        raise DataError(f"{path}: empty; expected class names, one a line")
    lines: dict[str, int] = {}
    for number, name in enumerate((name.strip() for name in names), 1):
        if not name:
            raise DataError(f"{path}: line {number} is empty; expected a class name on every line")
        if name in lines:
            raise DataError(f"{path}: line {number} is '{name}' again, as line {lines[name]}")
        lines[name] = number
    return tuple(lines)


def _expand(source: str) -> list[str]:
    if is_remote(source):
        return [shard for url in _braces(source) for shard in (_listed(url) if url.endswith("/") else [url])]
    path = Path(source)
    if path.is_dir():
        shards = sorted(str(shard.absolute()) for shard in path.glob("*.tar") if not shard.name.startswith("."))
        if not shards:
            raise DataError(f"{source}: no tar files in this directory")
        return shards
    shards = [source] if path.exists() else _braces(source)
    for shard in shards:
        if not Path(shard).is_file():
            raise DataError(f"{shard}: no such file")
    return [os.path.abspath(shard) for shard in shards]  # noqa: PTH100  (Path.absolute keeps a/../b)


def _listed(url: str) -> list[str]:
    files = file_system(url)
    try:
        names = sorted(str(files.unstrip_protocol(name)) for name in files.ls(url, detail=False))
    except Exception as error:  # noqa: BLE001  # every protocol's library has exceptions of its own
        raise DataError(f"{url}: cannot be listed ({as_os_error(error).strerror})") from None
    shards = [name for name in names if file_name(name).endswith(".tar") and not file_name(name).startswith(".")]
    if not shards:
        raise DataError(f"{url}: no tar files in this directory")
    return shards


def _braces(source: str) -> list[str]:
    from braceexpand import braceexpand

    try:
        return list(braceexpand(source))
    except ValueError:
        raise DataError(f"{source}: its braces do not match") from None
