import logging
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

import ops.metrics  # noqa: F401  # what is served
from ops.exporter import refuse_bad_certificates, start_exporter
from train.config import MetricsConfig
from train.errors import RunError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def certificate(directory: Path, name: str) -> tuple[str, str]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    where = ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=127.0.0.1"]
    subprocess.run([*words, *where, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return str(certificate), str(key)


def test_the_page_is_served_on_loopback_alone() -> None:
    port = free_port()
    assert start_exporter(MetricsConfig(), port, REGISTRY)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert "diptych_train_images_total" in answer.read().decode()
    with socket.socket() as other, pytest.raises(OSError, match="refused"):
        other.connect(("127.0.0.2", port))  # another address of this machine


def test_a_busy_port_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with caplog.at_level(logging.WARNING):
            assert not start_exporter(MetricsConfig(), port, REGISTRY)
    assert f"no metrics on 127.0.0.1:{port}" in caplog.text
    assert "choose another --metrics.port" in caplog.text


def test_with_a_certificate_the_page_is_served_by_https_to_known_clients_only(tmp_path: Path) -> None:
    ours, key = certificate(tmp_path, "server")
    client, client_key = certificate(tmp_path, "client")
    config = MetricsConfig(tls_certificate=ours, tls_key=key, tls_client_ca=client)
    refuse_bad_certificates(config)
    port = free_port()
    assert start_exporter(config, port, REGISTRY)
    url = f"https://127.0.0.1:{port}/metrics"
    context = ssl.create_default_context(cafile=ours)
    with pytest.raises((urllib.error.URLError, OSError)):
        urllib.request.urlopen(url, context=context)
    context.load_cert_chain(client, client_key)
    with urllib.request.urlopen(url, context=context) as answer:
        assert "diptych_train_images_total" in answer.read().decode()


def test_certificates_that_cannot_be_used_are_refused_in_a_line(tmp_path: Path) -> None:
    ours, key = certificate(tmp_path, "server")
    _, other_key = certificate(tmp_path, "other")
    for tls_certificate, tls_key, reason in (
        (str(tmp_path / "missing.crt"), key, "No such file"),
        (ours, other_key, "MISMATCH"),
        (key, key, "PEM"),
    ):
        config = MetricsConfig(tls_certificate=tls_certificate, tls_key=tls_key)
        with pytest.raises(RunError, match=reason) as refused:
            refuse_bad_certificates(config)
        assert str(refused.value).startswith(f"metrics.tls_certificate = {tls_certificate}")
        assert "\n" not in str(refused.value)
    config = MetricsConfig(tls_certificate=ours, tls_key=key, tls_client_ca=str(tmp_path / "no.crt"))
    with pytest.raises(RunError, match=r"metrics\.tls_client_ca = .*No such file"):
        refuse_bad_certificates(config)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"tls_certificate": "a"}, "name both or none"), ({"tls_client_ca": "a"}, "name metrics.tls_certificate too")],
)
def test_half_a_tls_setting_is_refused(fields: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        MetricsConfig(**fields)  # type: ignore[arg-type]  # mypy sees all fields' types
