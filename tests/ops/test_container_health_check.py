import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from ops import health_check
from ops.health_check import LAST_STEP, RUN_START, judge

ROOT = Path(__file__).resolve().parents[2]
LONG_AGO = 1e6


@contextmanager
def served(
    *, last_step: float = 0.0, certificate: Path | None = None, key: Path | None = None, authority: Path | None = None
) -> Iterator[str]:
    """The port of a page of a rank that began an hour ago, served by the library that serves ours."""
    registry = CollectorRegistry()
    Gauge(RUN_START, "As in ops/metrics.py.", registry=registry).set(time.time() - 3600)
    Gauge(LAST_STEP, "As in ops/metrics.py.", registry=registry).set(last_step)
    server, thread = start_http_server(
        0,
        "127.0.0.1",
        registry,
        certfile=str(certificate) if certificate else None,
        keyfile=str(key) if key else None,
        client_cafile=str(authority) if authority else None,
        client_auth_required=authority is not None,
    )
    try:
        yield str(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed one, and its key."""
    made, key = directory / f"{name}.crt", directory / f"{name}.key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    where = ["-keyout", str(key), "-out", str(made), "-subj", f"/CN={name}.example"]
    subprocess.run([*words, *where], check=True, capture_output=True)
    return made, key


class Asking:
    """The program, in a container that began long ago unless told otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str, container_age: float = LONG_AGO) -> tuple[int, str]:
        self._monkeypatch.setattr(sys, "argv", ["health_check", *arguments])
        self._monkeypatch.setattr(health_check, "container_age_seconds", lambda: container_age)
        return health_check.main(), self._capsys.readouterr().out


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Asking:
    return Asking(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("last_step_age", "run_age", "expected"),
    [
        (899.0, 5000.0, True),
        (901.0, 5000.0, False),
        (-5.0, 5000.0, True),  # a clock that was set back
        (None, 1799.0, True),
        (None, 1801.0, False),
        (None, None, False),
    ],
)
def test_a_rank_lives_by_its_last_step_and_before_that_by_its_start(
    last_step_age: float | None, run_age: float | None, expected: bool
) -> None:
    now = 1.8e9
    page = "# TYPE python_info gauge\npython_info{major=3} 1.0\n"
    page += f"{LAST_STEP} {0.0 if last_step_age is None else now - last_step_age!r}\n"
    page += "" if run_age is None else f"{RUN_START} {now - run_age!r}\n"
    healthy, line = judge(page, now, max_age_seconds=900, startup_seconds=1800)
    assert healthy is expected, line


def test_the_page_of_a_rank_is_read_as_the_library_writes_it(ask: Asking) -> None:
    with served(last_step=time.time() - 100) as port:
        assert ask("--port", port) == (0, "healthy: the last step ended 100 s ago; 900 s are allowed\n")
        status, line = ask("--port", port, "--max_age_seconds", "50")
        assert (status, line) == (1, "unhealthy: the last step ended 100 s ago; 50 s are allowed\n")
    with served() as port:
        assert ask("--port", port)[0] == 1
        status, line = ask("--port", port, "--startup_seconds", "7200")
        assert (status, line) == (0, "healthy: no step yet, 3600 s after the start; 7200 s are allowed\n")


def test_a_page_over_tls_is_read_without_being_told(ask: Asking, tmp_path: Path) -> None:
    made, key = certificate(tmp_path, "server")
    with served(last_step=time.time(), certificate=made, key=key) as port:
        assert ask("--port", port) == (0, "healthy: the last step ended 0 s ago; 900 s are allowed\n")


def test_a_page_that_asks_for_a_certificate_gets_the_one_that_is_named(ask: Asking, tmp_path: Path) -> None:
    made, key = certificate(tmp_path, "server")
    client, client_key = certificate(tmp_path, "client")
    with served(last_step=time.time(), certificate=made, key=key, authority=client) as port:
        status, line = ask("--port", port)
        assert status == 1
        assert "; if it asks for a certificate, name one: --tls_certificate" in line
        named = ("--tls_certificate", str(client), "--tls_key", str(client_key))
        assert ask("--port", port, *named)[0] == 0


def test_without_a_page_a_young_container_is_let_be_and_an_old_one_is_not(ask: Asking) -> None:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        port = str(bound.getsockname()[1])
        assert ask("--port", port, container_age=1799)[0] == 0
        status, line = ask("--port", port, container_age=1801)
    assert status == 1
    assert line == (
        f"unhealthy: no metrics page at 127.0.0.1:{port} ([Errno 111] Connection refused), 1801 s after the "
        "container's start; 1800 s are allowed\n"
    )


def test_a_server_that_takes_connections_and_never_answers_is_not_waited_for(
    ask: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_check, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        status, line = ask("--port", str(silent.getsockname()[1]))
        assert time.monotonic() - begun < 2
    assert status == 1
    assert "timed out" in line


def test_what_is_not_the_page_of_a_run_is_not_taken_for_one(ask: Asking, tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            status, line = ask("--port", str(server.server_port))
        finally:
            server.shutdown()
            thread.join()
    assert status == 1
    assert "HTTP status 501" in line
    assert judge("python_gc_objects_collected_total 1.0\n", 1.8e9, 900, 1800)[0] is False


def test_the_age_of_a_container_is_that_of_its_first_process() -> None:
    """Which, on a machine, came up with it."""
    began = int(subprocess.run(["ps", "-o", "etimes=", "1"], capture_output=True, check=True, text=True).stdout)
    assert health_check.container_age_seconds() == pytest.approx(began, abs=3)


def test_it_starts_in_no_time_and_without_torch() -> None:
    code = "import sys, ops.health_check; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'jsonargparse')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    refused = subprocess.run(
        [sys.executable, "-m", "ops.health_check", "--max_age_seconds", "soon"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == (
        "health_check: error: argument --max_age_seconds: invalid float value: 'soon'"
    )
