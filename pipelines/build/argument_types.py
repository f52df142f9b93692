"""What words of a command line may be, and defaults that depend on the machine."""

import argparse
import os
from collections.abc import Callable


def integer_within(least: int, most: int) -> Callable[[str], int]:
    """A type of argument: an integer between bounds, which belong to it."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"'{text}' is not an integer in {least} ... {most}")
        return number

    return parse


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
