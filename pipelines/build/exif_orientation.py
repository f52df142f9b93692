"""EXIF's orientation as DALI reads it, so that what we call upright is what training sees.

DALI uses OpenCV's reader (modules/imgcodecs/src/exif.cpp), which is strict in other places than Pillow: type and count
of the orientation are not looked at, but a single known field that points outside the data voids all of it.
"""

from struct import Struct

UPRIGHT = 1

_MARK = b"Exif\0\0"
_TIFF_MARK = 42
_ENTRY_BYTES = 12
_ORIENTATION = 0x0112
_STRINGS = {0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x8298}
"""Description, make, model, software, date, copyright."""
_RATIONALS = {0x011A: 1, 0x011B: 1, 0x013E: 2, 0x013F: 6, 0x0211: 3, 0x0214: 6}
"""Resolution in x and y, white point, chromaticities, YCbCr coefficients, reference black and white: how many."""


class _OutsideError(Exception):
    """A field lies outside the data."""


def exif_orientation(exif: bytes) -> int:
    """Orientation, 1 ... 8; 1 where it is missing, void or no such number.

    Args:
        exif: a block as it stands in a JPEG, with or without the mark in front.
    """
    try:
        orientation = _Reader(exif.removeprefix(_MARK)).orientation()
    except _OutsideError:
        return UPRIGHT
    return orientation if 1 <= orientation <= 8 else UPRIGHT


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        order = "<" if data[:2] == b"II" else ">"
        self._short, self._long = Struct(f"{order}H"), Struct(f"{order}I")

    def orientation(self) -> int:
        """Value of the first orientation; all fields are walked."""
        if self._number(self._short, 2) != _TIFF_MARK:
            return UPRIGHT
        start = self._number(self._long, 4)
        found = list[int]()
        for entry in range(self._number(self._short, start)):
            offset = start + 2 + entry * _ENTRY_BYTES
            tag = self._number(self._short, offset)
            if tag == _ORIENTATION:
                found.append(self._number(self._short, offset + 8))
            elif tag in _STRINGS:
                self._check_string(offset)
            elif tag in _RATIONALS:
                first = self._number(self._long, offset + 8)
                self._number(self._long, first + 8 * _RATIONALS[tag] - 4)
        return found[0] if found else UPRIGHT

    def _check_string(self, offset: int) -> None:
        size = self._number(self._long, offset + 4)
        start = self._number(self._long, offset + 8) if size > 4 else 8
        if start + size > len(self._data):
            raise _OutsideError

    def _number(self, kind: Struct, offset: int) -> int:
        if offset + kind.size > len(self._data):
            raise _OutsideError
        number: int = kind.unpack_from(self._data, offset)[0]
        return number
