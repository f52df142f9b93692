"""Report on runs: one HTML file with what they are, their curves, scores, errors and pictures, side by side.

    python -m eval.report RUN_DIR [RUN_DIR ...] --output report.html

The file needs no other, no script and no network. What a run does not have is said in its place. `--help` lists every
field.
"""

import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from eval.errors import EvaluationError
from eval.pages.config import ReportConfig
from eval.pages.run_files import read_runs
from eval.results import say
from pipelines.errors import DataError
from train.arguments import parse
from train.distributed import fail, share_cores
from train.errors import RunError

_EXTRA = ("matplotlib", "jinja2")


def main() -> None:
    """Refuse what is wrong before anything is drawn, then write the file."""
    share_cores()
    try:
        config = parse(ReportConfig, name_runs(sys.argv[1:]), prog="report")
        runs = read_runs(config.runs)
        for library in _EXTRA:
            if find_spec(library) is None:
                raise EvaluationError(f"{library} is not installed; get it with `pip install -e '.[report]'`")
        from eval.pages.page import render

        written = write_page(Path(config.output), render(runs, config))
    except (EvaluationError, RunError, DataError) as error:
        fail("report", error, show=True)
    say(f"written to {config.output} ({written / 1e6:.1f} MB)")


def name_runs(arguments: Sequence[str]) -> list[str]:
    """Gather the words that are neither flags nor flags' values into one `--runs=`."""
    runs: list[str] = []
    others: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        is_value = before.startswith("--") and "=" not in before
        (others if word.startswith("-") or is_value else runs).append(word)
    return [f"--runs={json.dumps(runs)}", *others] if runs else others


def write_page(path: Path, page: str) -> int:
    """Write the file whole or not at all; its directory is made.

    Returns:
        Its size in bytes.

    Raises:
        EvaluationError: the system refuses.
    """
    if path.name in {"", ".."}:
        raise EvaluationError(f"output = {path}: names no file")
    content, partial = page.encode(), path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise EvaluationError(f"output = {path}: cannot be written ({error.strerror})") from None
    return len(content)


if __name__ == "__main__":
    main()
