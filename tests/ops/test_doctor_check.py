"""The doctor's predictions beside real runs; minutes, and of use on a quiet machine only."""

import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from ops.doctor.check import Outcome, add, build_shards, is_right, settings
from ops.doctor.throttled_server import throttled_server

BYTES_PER_SECOND = 6e6
TOLERANCE = 0.2
"""A neighbour may be busy; `python -m ops.doctor.check` asks for 0.1."""


def test_the_throttled_server_sends_no_faster_than_it_may(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1024)
    with throttled_server(tmp_path, bytes_per_second=512 * 1024) as url:
        host = url.removeprefix("http://")
        start = time.perf_counter()
        connection = HTTPConnection(host)
        connection.request("GET", "/file", headers={"Range": "bytes=10-99999"})
        answer = connection.getresponse()
        assert answer.status == 206
        assert answer.read() == (bytes(range(256)) * 1024)[10:100_000]
        connection.request("GET", "/file")
        assert len(connection.getresponse().read()) == 256 * 1024
        connection.close()
        seconds = time.perf_counter() - start
    expected = (100_000 - 10 + 256 * 1024) / (512 * 1024)
    assert expected * 0.95 < seconds < expected * 1.5


@pytest.mark.slow
@pytest.mark.parametrize("starved", ["decode", "storage", "step"])
def test_the_starved_stage_is_named_and_the_run_is_as_fast_as_predicted(starved: str, tmp_path: Path) -> None:
    shards = build_shards(tmp_path)
    with throttled_server(shards, BYTES_PER_SECOND) as url:
        (setting,) = settings(shards, url, starved)
        outcome = Outcome()
        for repeat in range(3):
            add(outcome, setting, 15.0, tmp_path / f"run-{repeat}")
    assert is_right(starved, outcome, TOLERANCE), outcome
