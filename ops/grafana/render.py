"""Draw the dashboards from a Prometheus server's answers, where no Grafana is at hand.

    python -m ops.grafana.render --prometheus http://127.0.0.1:9090 --output docs/pictures

They show the same queries at the same places as Grafana would, but are matplotlib's work, and say so.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from jsonargparse.typing import PositiveFloat

from ops.grafana.answers import ALL, Span
from ops.grafana.boards import committed_boards
from train.arguments import parse
from train.distributed import fail
from train.errors import RunError


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """What is drawn."""

    prometheus: str = "http://127.0.0.1:9090"
    """URL of the server."""
    output: str = "pictures"
    """Directory of dashboard-NAME.png, made if it is missing."""
    run: str = ALL
    """Regular expression of the runs to show."""
    seconds: PositiveFloat = 300.0
    """Length of the time axes, up to now."""
    rate_interval: str = "10s"
    """Window of rates; at least four scrapes long."""


def main() -> None:
    """Ask, draw, and name the files."""
    try:
        config = parse(RenderConfig, sys.argv[1:], prog="grafana.render")
        span = Span(
            server=config.prometheus,
            end=time.time(),
            seconds=config.seconds,
            rate_interval=config.rate_interval,
            variables={"run": config.run},
        )
        for path in render(span, Path(config.output)):
            print(path)
    except RunError as error:
        fail("grafana.render", error, show=True)


def render(span: Span, directory: Path) -> list[Path]:
    """Draw every committed dashboard.

    Args:
        span: what to ask, and when.
        directory: made if it is missing.

    Returns:
        The pictures.

    Raises:
        RunError: the server does not answer, or matplotlib is not installed.
    """
    try:
        from ops.grafana.page import draw_board
    except ImportError as error:
        raise RunError(f"{error}; drawing needs matplotlib: pip install -e '.[dev]'") from None
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for board in committed_boards():
        path = directory / f"dashboard-{board['uid'].removeprefix('diptych-')}.png"
        draw_board(board, span, path)
        paths.append(path)
    return paths


if __name__ == "__main__":
    main()
