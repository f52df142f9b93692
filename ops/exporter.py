"""Serve the metrics of this process to Prometheus."""

import logging
import ssl

from prometheus_client import CollectorRegistry, start_http_server

from train.config import MetricsConfig
from train.errors import RunError

logger = logging.getLogger(__name__)


def start_exporter(config: MetricsConfig, port: int, registry: CollectorRegistry) -> bool:
    """Listen for scrapes in a thread; a busy port is a warning, because training is worth more than watching it.

    Args:
        config: where, and for whom.
        port: TCP port of this rank.
        registry: of what is on the page.

    Returns:
        Whether it listens.
    """
    try:
        start_http_server(
            port,
            addr=config.address,
            registry=registry,
            certfile=config.tls_certificate or None,
            keyfile=config.tls_key or None,
            client_cafile=config.tls_client_ca or None,
            client_auth_required=bool(config.tls_client_ca),
        )
    except OSError as error:
        logger.warning("no metrics on %s:%d (%s); choose another --metrics.port", config.address, port, error.strerror)
        return False
    return True


def refuse_bad_certificates(config: MetricsConfig) -> None:
    """Find out before any work whether TLS can be spoken as asked.

    Raises:
        RunError: a file is missing or holds something else.
    """
    if not config.port or not config.tls_certificate:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key)
    except OSError as error:  # SSLError is one
        raise RunError(
            f"metrics.tls_certificate = {config.tls_certificate}, metrics.tls_key = {config.tls_key}: cannot be used "
            f"({error.strerror or error}); name PEM files of a certificate and of its key"
        ) from None
    if config.tls_client_ca:
        try:
            context.load_verify_locations(config.tls_client_ca)
        except OSError as error:
            raise RunError(
                f"metrics.tls_client_ca = {config.tls_client_ca}: cannot be used ({error.strerror or error}); name a "
                "PEM file of certificates"
            ) from None
