"""Write the dashboards as JSON, as Grafana reads them.

python -m ops.grafana                                                   over the committed files
python -m ops.grafana --runbook https://HOST/docs/runbook.md --output DIR
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from ops.grafana.boards import DASHBOARDS
from ops.grafana.data_board import data_board
from ops.grafana.fleet_board import fleet_board
from ops.grafana.learning_board import learning_board
from ops.grafana.panels import RUNBOOK
from ops.grafana.throughput_board import throughput_board
from train.arguments import parse
from train.distributed import fail
from train.errors import RunError


@dataclass(frozen=True, kw_only=True)
class EmitConfig:
    """What is written."""

    output: str = str(DASHBOARDS)
    """Directory, made if it is missing."""
    runbook: str = RUNBOOK
    """URL of docs/runbook.md, to which panels link."""


def emitted(runbook: str = RUNBOOK) -> dict[str, str]:
    """Text of every file, by its name."""
    boards = (throughput_board(), learning_board(), fleet_board(), data_board())
    return {
        f"{str(board['uid']).removeprefix('diptych-')}.json": (
            json.dumps(board, indent=1, sort_keys=True).replace(RUNBOOK, runbook) + "\n"
        )
        for board in boards
    }


def main() -> None:
    """Write, and name the files."""
    try:
        config = parse(EmitConfig, sys.argv[1:], prog="grafana")
        directory = Path(config.output)
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in emitted(config.runbook).items():
            (directory / name).write_text(text)
            print(directory / name)
    except RunError as error:
        fail("grafana", error, show=True)
    except OSError as error:
        fail("grafana", RunError(f"output = {config.output}: {error.strerror}"), show=True)


if __name__ == "__main__":
    main()
