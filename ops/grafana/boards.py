"""Reading the committed dashboards back: for those who draw them, and those who check them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]
DASHBOARDS = Path(__file__).parent / "dashboards"
NEEDS_A_GPU = "Needs a GPU."
"""Ends the description of a panel that has nothing to show on a CPU."""


def committed_boards() -> list[Json]:
    """The dashboards as they are committed, in the order of their file names."""
    return [json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))]


def panels_of(board: Json) -> Iterator[Json]:
    """Every panel, also those inside collapsed rows, but no rows."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels") or ()
        else:
            yield panel


def needs_a_gpu(panel: Json) -> bool:
    """Whether it is marked as empty on a CPU."""
    return str(panel.get("description", "")).endswith(NEEDS_A_GPU)
