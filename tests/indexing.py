"""Foreign shards indexed in a line, for tests."""

from pathlib import Path
from typing import Any

import pytest
from foreign_shards import samples, write_shard

from pipelines.build_shards import main
from pipelines.tools.index_foreign import IndexOptions, index_foreign


def three_tars(directory: Path) -> Path:
    """Two shards of train and one of val, four samples each in two classes; keys are as train-0000-0."""
    for name in ("train-0000", "train-0001", "val-0000"):
        write_shard(directory / f"set-{name}.tar", samples(*(f"{name}-{number}" for number in range(4))))
    return directory


def index(*sources: Path | str, **options: Any) -> None:
    """Index, with the fields of IndexOptions as options."""
    index_foreign(IndexOptions(sources=tuple(map(str, sources)), **options))


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def refused(capsys: pytest.CaptureFixture[str], command: str, *arguments: object) -> str:
    """The one line by which a command refuses its arguments."""
    capsys.readouterr()
    assert main([command, *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert not out
    line: str = err.splitlines()[-1]
    assert err == f"{line}\n"
    assert line.startswith("build_shards: error: ")
    return line.removeprefix("build_shards: error: ")
