"""Where a build gathers what it has finished until the data set is complete: `.NAME.partial` beside the output.

It outlives the build unless that comes to its end, so that the same command goes on from there, and it is where the
parts of a build on several machines meet.

    .NAME.partial/plan.json                 what is being built
    .NAME.partial/finished/, notes/         see finished_shards
    .NAME.partial/scratch-whole/            half-written and unpacked files; of part 0 of 8: scratch-0-of-8/
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.atomic_directory import refuse_used
from pipelines.build.finished_shards import FINISHED, NOTES
from pipelines.errors import DataError

PLAN_NAME = "plan.json"
LOCK_NAME = "lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A share of a build's shards: those whose number leaves the rest `number` when divided by `count`."""

    number: int
    count: int

    @property
    def label(self) -> str:
        """For file names."""
        return f"{self.number}-of-{self.count}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildDirectory:
    """A directory that this build alone, or this and other parts of it, may use."""

    path: Path
    scratch: Path
    """For this attempt alone; gone when it ends."""

    @property
    def plan(self) -> Path:
        """The plan's file; as long as it exists the directory is kept."""
        return self.path / PLAN_NAME


def partial_path(output: Path) -> Path:
    """Where a build of this output works."""
    return output.with_name(f".{output.name}.partial")


@contextmanager
def build_directory(output: Path, part: Part | None, *, restart: bool) -> Iterator[BuildDirectory]:
    """Open the directory in which an output is built, or go on with the one that is there.

    Args:
        output: of the build.
        part: other parts may use it at the same time; None: nobody may.
        restart: empty it first.

    Raises:
        DataError: another build uses it, the output is in use, or a part would empty it under the others.
    """
    refuse_used(output)
    path = partial_path(output)
    if restart and part:
        raise DataError(f"--restart would throw away other parts' work; remove {path} before they begin")
    path.mkdir(parents=True, exist_ok=True)
    label = part.label if part else "whole"
    with _locked(path, LOCK_NAME, alone=part is None) as lock, _locked(path, f"{LOCK_NAME}-{label}", alone=True):
        refuse_used(output)  # a build that just ended may have made it
        if restart:
            _empty(path)
        scratch = path / f"scratch-{label}"
        shutil.rmtree(scratch, ignore_errors=True)
        for folder in (path / FINISHED, path / NOTES, scratch):
            folder.mkdir(exist_ok=True)
        # A name of its own: a worker may outlive a killed build by a moment, and must not meet this one's files.
        directory = BuildDirectory(path=path, scratch=Path(tempfile.mkdtemp(dir=scratch)))
        try:
            yield directory
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            if not directory.plan.exists() and _lock(lock, alone=True):
                shutil.rmtree(path)


@contextmanager
def _locked(directory: Path, name: str, *, alone: bool) -> Iterator[int]:
    lock = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if not _lock(lock, alone=alone) or not os.fstat(lock).st_nlink:
            raise DataError(f"{directory}: in use by another build of the same output; wait for it or stop it")
        yield lock
    finally:
        os.close(lock)


def _lock(descriptor: int, *, alone: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks must do without
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    return True


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif not entry.name.startswith(LOCK_NAME):
            entry.unlink()
