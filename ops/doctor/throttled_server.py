"""A web server of a directory whose bytes a second are limited, all connections together: a slow source of shards."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_PIECE = 16_384


@contextmanager
def throttled_server(directory: Path, bytes_per_second: float) -> Iterator[str]:
    """Serve the files of a directory, with range requests; yields its URL."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.directory, server.bytes_per_second = directory, bytes_per_second
    thread = threading.Thread(target=server.serve_forever, name="throttled-server")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # connections that clients keep open
    directory: Path
    bytes_per_second: float

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._turn = threading.Lock()
        self._next = time.monotonic()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""

    def wait_for_room(self, size: int) -> None:
        """Until so many bytes may be sent; they are charged for one after another."""
        with self._turn:
            begin = max(self._next, time.monotonic())
            self._next = begin + size / self.bytes_per_second
        time.sleep(max(0.0, self._next - time.monotonic()))


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        """Tell a file's size."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """Send a file, or a range of it."""
        self._answer(body=True)

    def log_message(self, *arguments: object) -> None:
        """Be quiet."""

    def _answer(self, *, body: bool) -> None:
        file = self.server.directory / self.path.lstrip("/")
        if ".." in file.parts or not file.is_file():
            self.send_error(404)
            return
        size = file.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        end = min(int(wanted[2]) + 1, size) if wanted and wanted[2] else size
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if body:
            self._send(file, start, end)

    def _send(self, file: Path, start: int, end: int) -> None:
        with file.open("rb") as stream:
            stream.seek(start)
            while start < end:
                piece = stream.read(min(_PIECE, end - start))
                self.server.wait_for_room(len(piece))
                self.wfile.write(piece)
                start += len(piece)
