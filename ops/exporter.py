"""Serve the metrics of this process to Prometheus."""

import logging

from prometheus_client import start_http_server

logger = logging.getLogger(__name__)


def start_exporter(address: str, port: int) -> None:
    """Listen for scrapes in a thread; a busy port is a warning, because training is worth more than watching it.

    Args:
        address: to listen on; 127.0.0.1 unless the user opened it.
        port: TCP port.
    """
    try:
        start_http_server(port, addr=address)
    except OSError as error:
        logger.warning("no metrics on %s:%d (%s); choose another --metrics.port", address, port, error.strerror)
