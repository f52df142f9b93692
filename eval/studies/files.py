"""Files of a study: written whole or not at all, and by one process at a time."""

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.errors import EvaluationError


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; its directory is made.

    Raises:
        EvaluationError: the system refuses.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be written ({error.strerror}); make room and repeat the command"
        ) from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """The same for what JSON can hold."""
    write_text(path, json.dumps(content, indent=1) + "\n")


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Wait until no other process, on any node, prepares the study in this directory.

    Raises:
        EvaluationError: the directory cannot be written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / ".lock").open("w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise EvaluationError(f"{directory}: {error.strerror}; name another --output") from None


def say(line: str) -> None:
    """Print a line of progress, apart from the results."""
    print(line, file=sys.stderr, flush=True)
