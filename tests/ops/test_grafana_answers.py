"""What is said when a server refuses a query."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ops.grafana.answers import Span, at_an_instant
from train.errors import RunError


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that gives every query the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        log_message: Callable[..., None] = lambda *_: None  # silent

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, b"Service Unavailable", "refused up: Service Unavailable"),
        (502, b"", "refused up: Bad Gateway"),
        (400, b'{"status": "error", "error": "parse error"}', "refused up: parse error"),
        (500, b'["no object"]', r'refused up: \["no object"\]'),
        (200, b"<html>", "does not answer as one does"),
    ],
)
def test_a_refusal_is_told_in_the_words_of_the_server(status: int, body: bytes, said: str) -> None:
    with answering(status, body) as url, pytest.raises(RunError, match=f"prometheus: {url} {said}"):
        at_an_instant("up", Span(server=url, end=0, seconds=1))
