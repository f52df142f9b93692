"""Words to the user of a command, beside its results."""

import sys


def say(message: str) -> None:
    """Print a line to standard error, under the name of the command."""
    print(f"build_shards: {message}", file=sys.stderr)
