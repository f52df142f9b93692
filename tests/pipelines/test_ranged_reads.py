"""Ranges of remote files, many at once, against servers that misbehave."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from remote_servers import Fault, Request, http_directory, s3_directory

from pipelines.errors import DataError
from pipelines.remote import locations
from pipelines.remote.ranged_reads import read_ranges

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "_FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    directory = tmp_path / "origin"
    directory.mkdir()
    for name in ("a.tar", "b.tar"):
        (directory / name).write_bytes(name.encode() + CONTENT)
    return directory


@contextmanager
def at(kind: str, origin: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The same directory by another way: its location."""
    if kind == "http":
        with http_directory(origin) as server:
            yield server.url
    elif kind == "s3":
        request.getfixturevalue("s3_server")
        with s3_directory(origin) as url:
            yield url
    else:
        yield {"path": "", "file": "file://"}[kind] + str(origin)


@pytest.mark.parametrize("kind", ["http", "s3", "path", "file"])
def test_ranges_come_back_in_the_order_in_which_they_were_asked_for(
    origin: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    ranges = [("b.tar", 5, 300), ("a.tar", 0, 5), ("b.tar", 7, 7), ("a.tar", 10_000, 10_245), ("b.tar", 0, 10_245)]
    with at(kind, origin, request) as url:
        answers = read_ranges(
            [f"{url}/{name}" for name, _, _ in ranges], [start for _, start, _ in ranges], [end for _, _, end in ranges]
        )
    assert answers == [(origin / name).read_bytes()[start:end] for name, start, end in ranges]


def test_places_may_mix_protocols(origin: Path, request: pytest.FixtureRequest) -> None:
    with at("http", origin, request) as http, at("s3", origin, request) as s3:
        urls = [f"{place}/a.tar" for place in (http, s3, str(origin), s3, http)]
        assert read_ranges(urls, range(5), range(10, 15)) == [
            (origin / "a.tar").read_bytes()[first : first + 10] for first in range(5)
        ]


@pytest.mark.parametrize("kind", ["http", "s3", "path", "file"])
def test_a_failure_takes_its_own_place_only(origin: Path, request: pytest.FixtureRequest, kind: str) -> None:
    with at(kind, origin, request) as url:
        missing, short, behind, good = read_ranges(
            [f"{url}/missing.tar", f"{url}/a.tar", f"{url}/a.tar", f"{url}/b.tar"],
            [0, 10_240, 20_000, 0],
            [10, 10_250, 20_010, 5],
        )
    assert isinstance(missing, FileNotFoundError)
    assert isinstance(short, OSError)
    assert short.strerror == "the file ends before byte 10250"
    assert isinstance(behind, OSError)
    assert behind.strerror == "the file ends before byte 20010"
    assert good == b"b.tar"


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=429), Fault(drop_after=3)])
def test_a_range_that_fails_is_asked_for_again_alone(origin: Path, fault: Fault) -> None:
    def sometimes(request: Request) -> Fault | None:
        return fault if request.start == 20 and again.pop() else None

    again = [False, True, True]
    with http_directory(origin, sometimes) as server:
        starts = [0, 10, 20, 30]
        answers = read_ranges([f"{server.url}/a.tar"] * 4, starts, [start + 10 for start in starts])
        assert answers == [(origin / "a.tar").read_bytes()[start : start + 10] for start in starts]
        assert sorted(request.start for request in server.requests) == [0, 10, 20, 20, 20, 30]


@pytest.mark.parametrize(
    ("status", "error", "requests"), [(403, PermissionError, 1), (404, FileNotFoundError, 1), (500, OSError, 6)]
)
def test_tries_are_bounded(origin: Path, status: int, error: type[OSError], requests: int) -> None:
    with http_directory(origin, lambda _: Fault(status=status)) as server:
        (answer,) = read_ranges([f"{server.url}/a.tar"], [0], [10])
        assert type(answer) is error
        assert len(server.requests) == requests


def test_a_server_that_is_gone_is_an_os_error(origin: Path) -> None:
    with http_directory(origin) as server:
        url = f"{server.url}/a.tar"
    (answer,) = read_ranges([url], [0], [10])
    assert isinstance(answer, OSError)
    assert answer.strerror


def test_a_server_that_ignores_ranges_is_named_as_such(origin: Path) -> None:
    with http_directory(origin, lambda _: Fault(no_ranges=True)) as server:
        (answer,) = read_ranges([f"{server.url}/a.tar"], [0], [10])
        assert isinstance(answer, OSError)
        assert answer.strerror == "the server does not know range requests; use the shard cache"


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_requests_run_at_once_than_allowed(origin: Path, concurrency: int) -> None:
    lock = threading.Lock()
    now, most = 0, 0

    def busy(_: Request) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1

    with http_directory(origin, busy) as server:
        answers = read_ranges([f"{server.url}/a.tar"] * 12, range(12), range(10, 22), concurrency=concurrency)
        assert all(isinstance(answer, bytes) for answer in answers)
    assert most == concurrency


def test_a_batch_is_dropped_at_once_when_it_is_stopped(origin: Path) -> None:
    stop = threading.Event()
    with http_directory(origin, lambda _: Fault(bytes_per_second=1000)) as server:
        threading.Timer(0.1, stop.set).start()
        start = time.monotonic()
        answers = read_ranges([f"{server.url}/a.tar"] * 3, [0] * 3, [10_000] * 3, stop=stop)
        assert time.monotonic() - start < 1.5
        assert [type(answer) for answer in answers] == [InterruptedError] * 3


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(DataError, match=r"nosuch://a/b: .*nosuch"):
        read_ranges(["nosuch://a/b"], [0], [1])


def test_a_process_ends_without_warnings_and_with_no_thread_but_that_of_fsspec(origin: Path) -> None:
    program = """
import sys, threading
from pipelines.remote.ranged_reads import read_ranges
print(read_ranges([sys.argv[1]] * 20, range(20), range(5, 25))[0].decode())
print(*[thread.name for thread in threading.enumerate() if thread is not threading.main_thread()])
"""
    with http_directory(origin) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-X", "dev", "-c", program, f"{server.url}/a.tar"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "a.tar\nfsspecIO\n", "")
