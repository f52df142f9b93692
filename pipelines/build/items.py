"""The images of a source, listed in columns: an ImageNet of Python objects would take half a gigabyte."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import overload

import numpy as np
import numpy.typing as npt

SPLITS = ("train", "val", "test")

_ROW = np.dtype(
    [
        ("offset", "<i8"),
        ("size", "<i8"),
        ("name_end", "<i8"),
        ("crc32", "<i8"),  # -1 where unknown
        ("label", "<i4"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("holder", "<u4"),  # position in Items._holders
        ("split", "u1"),
        ("beside", "?"),  # whether the path is the holder followed by the name
    ]
)
_PACK = Struct("<qqqqiIIIB?").pack
_IDENTITY = ["size", "crc32", "label", "height", "width", "split"]


@dataclass(frozen=True, slots=True)
class Item:
    """One image to come."""

    split: str
    """One of SPLITS."""
    label: int
    """Position in Source.classes, or UNLABELLED."""
    name: str
    """Where it lies in the source, with slashes."""
    path: str
    """File that holds its bytes; empty for generated images."""
    offset: int
    """Of its bytes in that file; the number within its split for generated images."""
    size: int
    """Of the encoded image in bytes; an upper bound where it is yet to be encoded."""
    height: int = 0
    """Of the upright original, where the image was resized before; 0: that of the image."""
    width: int = 0
    crc32: int = -1
    """Of the encoded image, where it is known."""


class Items(Sequence[Item]):
    """Items in the order in which they were given; each is made anew when it is looked at."""

    def __init__(self, items: Iterable[Item]) -> None:
        rows, names = bytearray(), bytearray()
        holders: dict[str, int] = {}
        for item in items:
            name = _encoded(item.name)
            names += name
            beside = item.path.endswith(item.name)
            holder = item.path[: -len(item.name)] if beside else item.path
            number = holders.setdefault(holder, len(holders))
            split = SPLITS.index(item.split)
            shape = (item.height, item.width)
            rows += _PACK(item.offset, item.size, len(names), item.crc32, item.label, *shape, number, split, beside)
        self._rows: npt.NDArray[np.void] = np.frombuffer(rows, dtype=_ROW)
        self._names = names
        self._holders = tuple(holders)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, key: int) -> Item: ...
    @overload
    def __getitem__(self, key: slice) -> list[Item]: ...
    def __getitem__(self, key: int | slice) -> Item | list[Item]:
        if isinstance(key, slice):
            return [self[number] for number in range(*key.indices(len(self)))]
        row = range(len(self))[key]  # negative ones count from the end; beyond the ends IndexError
        offset, size, _, crc32, label, height, width, holder, split, beside = self._rows[row].item()
        name = self._name(row).decode("utf-8", "surrogateescape")
        path = self._holders[holder] + name if beside else self._holders[holder]
        return Item(SPLITS[split], label, name, path, offset, size, height, width, crc32)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have items, train first."""
        present = np.unique(self._rows["split"])
        return tuple(SPLITS[number] for number in present)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(items,) bytes."""
        return np.asarray(self._rows["size"])

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """(items,)."""
        return np.asarray(self._rows["label"])

    @property
    def name_bytes(self) -> npt.NDArray[np.int64]:
        """(items,) lengths of the names in UTF-8."""
        return np.diff(self._rows["name_end"], prepend=0)

    def rows_of(self, split: str) -> npt.NDArray[np.int64]:
        """Positions of a split's items."""
        return np.flatnonzero(self._rows["split"] == SPLITS.index(split))

    def digest(self, rows: npt.NDArray[np.integer]) -> str:
        """Hash of names, sizes and labels, in the given order; where the bytes lie does not matter."""
        digest = hashlib.sha256(np.ascontiguousarray(self._rows[_IDENTITY][rows]).astype(_identity()).tobytes())
        for row in rows.tolist():
            digest.update(self._name(row) + b"\0")
        return digest.hexdigest()

    def _name(self, row: int) -> bytes:
        start = int(self._rows["name_end"][row - 1]) if row else 0
        return bytes(self._names[start : int(self._rows["name_end"][row])])


def picked(items: Items, rows: npt.NDArray[np.integer]) -> Iterator[Item]:
    """The items at some positions."""
    return (items[row] for row in rows.tolist())


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")  # file names may be any bytes


def _identity() -> np.dtype[np.void]:
    """Without the gaps that a choice of columns leaves between them."""
    return np.dtype([(name, _ROW[name]) for name in _IDENTITY])
