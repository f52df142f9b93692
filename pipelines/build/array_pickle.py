"""Reads dictionaries of uint8 arrays from a pickle, as CIFAR comes in, without running what the pickle says.

Unpickling calls whatever the file names. Here it gets stand-ins for the few names that NumPy arrays need, so not even
NumPy's own unpickling code meets the file.
"""

import io
import pickle
from typing import Any


class PickledArray:
    """Stand-in for numpy.ndarray: keeps what was pickled."""

    shape: object = None
    data: object = None

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _version, self.shape, dtype, is_fortran, self.data = state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", b"u1") or is_fortran:
            raise pickle.UnpicklingError("an array that is not uint8 in C order")


def load_dictionary(data: bytes) -> dict[str, Any]:
    """Unpickle a dictionary of str, bytes, numbers, lists, tuples, dictionaries and uint8 arrays (as PickledArray).

    Python 2's byte strings stay bytes, except for the keys.

    Raises:
        pickle.UnpicklingError: damaged, not a dictionary, or needs anything else.
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # the module promises no particular type for damaged input
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error


class _Dtype:
    def __init__(self, code: object, *_flags: object) -> None:
        self.code = code

    def __setstate__(self, _state: object) -> None:
        """Byte order and padding mean nothing for uint8."""


def _reconstruct(*_arguments: object) -> PickledArray:
    return PickledArray()


def _latin1(text: str, encoding: str) -> bytes:
    # Python 3 writes bytes so in the protocols of Python 2.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> object:
        if (module_name, global_name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which no image data needs")
        return _STAND_INS[module_name, global_name]
