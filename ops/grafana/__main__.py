"""Write the dashboards as JSON, as Grafana reads them: python -m ops.grafana [DIRECTORY]."""

import json
import sys
from pathlib import Path

from ops.grafana.boards import DASHBOARDS
from ops.grafana.data_board import data_board
from ops.grafana.fleet_board import fleet_board
from ops.grafana.learning_board import learning_board
from ops.grafana.throughput_board import throughput_board


def emitted() -> dict[str, str]:
    """Text of every file, by its name."""
    boards = (throughput_board(), learning_board(), fleet_board(), data_board())
    return {
        f"{str(board['uid']).removeprefix('diptych-')}.json": json.dumps(board, indent=1, sort_keys=True) + "\n"
        for board in boards
    }


def main() -> None:
    """Write into the given directory, or over the committed files."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DASHBOARDS
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in emitted().items():
        (directory / name).write_text(text)
        print(directory / name)


if __name__ == "__main__":
    main()
