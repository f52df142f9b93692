"""Servers of a data set directory on this machine: an HTTP server that can misbehave, and S3 by moto."""

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.remote.locations import file_system

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One GET or HEAD as the server saw it."""

    name: str
    """Of the file, relative to the served directory."""
    start: int
    end: int
    """Exclusive; of the whole file where there was no Range header."""
    ranged: bool
    number: int
    """Of GET requests for this file, from 0."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What a server does instead of answering well."""

    status: int | None = None
    """Answer with this status and no content."""
    drop_after: int | None = None
    """Break the connection after so many bytes of the body."""
    damage: bool = False
    """Flip the bits of the first byte sent."""
    no_ranges: bool = False
    """Ignore the Range header and send the whole file."""
    bytes_per_second: float | None = None
    """Send slowly, in pieces of 4 KiB."""


Faults = Callable[[Request], Fault | None]


@dataclass
class HttpDirectory:
    """A directory that is being served."""

    url: str
    requests: list[Request] = field(default_factory=list)
    """GET requests, in the order in which they came."""
    bytes_sent: int = 0
    """Of bodies."""

    def count(self, name: str) -> int:
        """GET requests for one file."""
        return sum(request.name == name for request in self.requests)


@contextmanager
def http_directory(path: Path, faults: Faults = lambda _: None) -> Iterator[HttpDirectory]:
    """Serve the files below `path` at `HttpDirectory.url`, with range requests.

    Args:
        path: of the directory.
        faults: asked at every GET request; None means a proper answer.
    """
    server = _Server(("127.0.0.1", 0), _Handler)
    server.root, server.faults = path, faults
    server.served = HttpDirectory(f"http://127.0.0.1:{server.server_address[1]}/{path.name}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="http-directory")
    thread.start()
    try:
        yield server.served
    finally:
        server.stop()
        thread.join()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """URL of an S3 service that lives as long as the test session; the environment names it and its credentials."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield os.environ["AWS_ENDPOINT_URL"]
    server.stop()


@contextmanager
def s3_directory(path: Path) -> Iterator[str]:
    """Upload the files below `path` to a new bucket of `s3_server`; yields the directory's s3:// URL.

    Anyone may read them, with credentials or without.
    """
    url = f"s3://bucket-{time.time_ns()}/{path.name}"
    files = file_system(url)
    files.mkdir(url.rpartition("/")[0])
    for file in path.rglob("*"):
        if file.is_file():
            files.pipe_file(f"{url}/{file.relative_to(path)}", file.read_bytes(), ACL="public-read")
    yield url
    files.rm(url.rpartition("/")[0], recursive=True)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for them
    root: Path
    faults: Faults
    served: HttpDirectory

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.connections: list[socket.socket] = []

    def stop(self) -> None:
        """Break all connections."""
        self.stopping.set()
        self.shutdown()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *arguments: Any) -> None:
        """Be quiet."""

    def _answer(self, *, body: bool) -> None:
        name = self.path.partition(f"/{self.server.root.name}/")[2]
        file = self.server.root / name
        data = file.read_bytes() if file.is_file() else None
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        size = len(data or b"")
        start = int(wanted[1]) if wanted else 0
        end = min(int(wanted[2]) + 1, size) if wanted and wanted[2] else size
        fault = None
        if body:
            with self.server.lock:
                number = self.server.served.count(name)
                request = Request(name=name, start=start, end=end, ranged=wanted is not None, number=number)
                self.server.served.requests.append(request)
            fault = self.server.faults(request)
        fault = fault or Fault()
        if fault.no_ranges:
            start, end, wanted = 0, size, None
        if data is None or fault.status is not None or start > size or (wanted and start == size):
            self.send_response(fault.status or (404 if data is None else 416))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "none" if fault.no_ranges else "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if body:
            self._send(bytearray(data[start:end]), fault)

    def _send(self, content: bytearray, fault: Fault) -> None:
        if fault.damage and content:
            content[0] ^= 0xFF
        if fault.drop_after is not None:
            content = content[: fault.drop_after]
            self.close_connection = True
        step = len(content) if fault.bytes_per_second is None else 4096
        for first in range(0, len(content), step or 1):
            piece = content[first : first + step]
            self.wfile.write(piece)
            with self.server.lock:
                self.server.served.bytes_sent += len(piece)
            if fault.bytes_per_second is not None and self.server.stopping.wait(len(piece) / fault.bytes_per_second):
                self.close_connection = True
                return
