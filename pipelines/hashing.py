"""Counter-based random numbers: a hash of a few integers, the same on every machine and in every library version."""

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]


def hash64(*words: int | npt.NDArray[np.integer]) -> UInt64Array:
    """Uniform 64-bit hash of integer words, broadcast against each other.

    The finaliser of SplitMix64 (Steele et al. 2014; constants: Stafford's variant 13) after each word. Unlike a
    generator's stream, any element can be computed alone, and NumPy promises no stable stream over versions.

    Args:
        words: integers in [0, 2^64) or arrays of them.
    """
    state: UInt64Array = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant; NumPy warns of it for scalars
        for word in words:
            state = _mix(state ^ _mix(np.asarray(word, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
    return state


def uniform(bits: UInt64Array) -> npt.NDArray[np.float64]:
    """Map hashes to [0, 1), on a grid of 2^-53."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: UInt64Array) -> UInt64Array:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
