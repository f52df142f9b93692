"""A Prometheus server beside runs of a test: it scrapes whatever rank announces itself, once a second."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.grafana.answers import Span, at_an_instant
from train.errors import RunError

CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{directory}/rules/*.yml"]
scrape_configs:
  - job_name: diptych
    file_sd_configs: [{{files: ["{directory}/prometheus-targets/*.json"], refresh_interval: 1s}}]
"""


def free_ports(number: int) -> int:
    """The first of so many in a row."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = int(probe.getsockname()[1])
        try:
            for port in range(first, first + number):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return first


@contextmanager
def live_prometheus(directory: Path, port: int) -> Iterator[str]:
    """Run a server; skips the test where there is none.

    Args:
        directory: whose runs are scraped, by the target files that they write to its prometheus-targets/, and whose
            rules/*.yml are evaluated, if there are any. The server's files go there, too.
        port: that it listens on.

    Yields:
        Its URL, which may not answer yet.
    """
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("prometheus is not installed (Debian package prometheus)")
    (directory / "prometheus.yml").write_text(CONFIGURATION.format(directory=directory))
    server = subprocess.Popen(
        [
            prometheus,
            f"--web.listen-address=127.0.0.1:{port}",
            f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--config.file={directory / 'prometheus.yml'}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def wait_until_true(expression: str, span: Span, seconds: float, hint: object = "") -> Span:
    """Until a query has an answer; returns the span up to then."""
    deadline = time.monotonic() + seconds
    while True:
        now = Span(server=span.server, end=time.time(), seconds=span.seconds)
        try:
            if at_an_instant(expression, now):
                return now
        except RunError:
            pass  # the server has not begun to listen
        assert time.monotonic() < deadline, f"no answer to {expression} {hint}"
        time.sleep(0.3)


def firing(server: str) -> set[tuple[str, str, str]]:
    """Name, run and rank (or "") of each alert that fires now."""
    with urllib.request.urlopen(f"{server}/api/v1/alerts", timeout=10) as answer:  # noqa: S310  # of the server above
        alerts = json.load(answer)["data"]["alerts"]
    return {
        (alert["labels"]["alertname"], alert["labels"].get("run", ""), alert["labels"].get("rank", ""))
        for alert in alerts
        if alert["state"] == "firing"
    }
