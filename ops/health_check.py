"""Ask a rank of this container whether it still makes steps: a probe for Docker and Kubernetes, without torch.

    python -m ops.health_check --max_age_seconds 900

Reads the rank's own metrics page and looks at when its last step ended. Exit status: 0 it lives, or is within the time
that a start may take; 1 it does not, or there is no page to tell; 2 wrong arguments. One line says which and why.
"""

import argparse
import http.client
import os
import re
import ssl
import sys
import time
from pathlib import Path

LAST_STEP = "diptych_train_last_step_timestamp_seconds"
RUN_START = "diptych_run_start_timestamp_seconds"
ANSWER_SECONDS = 5.0
"""For an answer; it is asked for twice at most, by HTTP and by HTTPS."""


def main() -> int:
    """Print one line about the rank, and return the exit status that it means."""
    asked = parse_arguments()
    try:
        page = read_page(asked.address, asked.port, asked.tls_certificate, asked.tls_key)
    except (OSError, http.client.HTTPException) as error:
        age = container_age_seconds()
        healthy = age <= asked.startup_seconds
        line = (
            f"no metrics page at {asked.address}:{asked.port} ({error or type(error).__name__}), {age:.0f} s after the "
            f"container's start; {asked.startup_seconds:g} s are allowed"
        )
    else:
        healthy, line = judge(page, time.time(), asked.max_age_seconds, asked.startup_seconds)
    print("healthy:" if healthy else "unhealthy:", line)
    return 0 if healthy else 1


def parse_arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(prog="health_check", description="Whether a rank still makes steps.")
    # More than timeouts.step_seconds: a rank that stands still ends itself first, and names who is missing.
    parser.add_argument("--max_age_seconds", type=float, default=900, help="since the last step (%(default)s)")
    # As timeouts.startup_seconds: joining, compiling and cold shards come before the first step.
    parser.add_argument("--startup_seconds", type=float, default=1800, help="to the first step (%(default)s)")
    parser.add_argument("--port", type=int, default=9400, help="metrics.port of the rank (%(default)s)")
    parser.add_argument("--address", default="127.0.0.1", help="at which the rank listens (%(default)s)")
    parser.add_argument("--tls_certificate", type=Path, help="of this probe, where the page asks for one (PEM)")
    parser.add_argument("--tls_key", type=Path, help="of that certificate (PEM)")
    return parser.parse_args()


def read_page(address: str, port: int, certificate: Path | None = None, key: Path | None = None) -> str:
    """Get a metrics page, by HTTP or, where the server speaks only TLS, by HTTPS.

    Its certificate is not verified: it bears the names that Prometheus asks for, and we ask on this machine.

    Raises:
        OSError, http.client.HTTPException: nobody listens, answers in time, or answers with a page.
    """
    try:
        return _get(http.client.HTTPConnection(address, port, timeout=ANSWER_SECONDS))
    except (ConnectionResetError, http.client.HTTPException) as error:  # how a TLS server takes plain HTTP
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        try:
            return _get(http.client.HTTPSConnection(address, port, timeout=ANSWER_SECONDS, context=context))
        except OSError as unspoken:
            if getattr(unspoken, "reason", "") == "WRONG_VERSION_NUMBER":
                raise error from None  # it speaks no TLS
            hint = "" if certificate else "; if it asks for a certificate, name one: --tls_certificate"
            raise OSError(f"over TLS: {unspoken}{hint}") from None


def _get(connection: http.client.HTTPConnection) -> str:
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise http.client.HTTPException(f"HTTP status {answer.status}")
        return answer.read().decode(errors="replace")
    finally:
        connection.close()


def judge(page: str, now: float, max_age_seconds: float, startup_seconds: float) -> tuple[bool, str]:
    """Whether a rank with such a page lives, and why.

    Args:
        page: its metrics, in Prometheus's text format.
        now: Unix time.
        max_age_seconds: most that may have passed since its last step.
        startup_seconds: most that may have passed since its start, while it has made no step.
    """
    started, last_step = _value(page, RUN_START), _value(page, LAST_STEP)
    if last_step:
        age = now - last_step
        return age <= max_age_seconds, f"the last step ended {age:.0f} s ago; {max_age_seconds:g} s are allowed"
    if started:
        age = now - started
        return age <= startup_seconds, f"no step yet, {age:.0f} s after the start; {startup_seconds:g} s are allowed"
    return False, f"that is not the page of a run: neither {LAST_STEP} nor {RUN_START} is set in it"


def _value(page: str, name: str) -> float:
    """Of a metric without labels; 0 where it is missing, which is also what it is before it was first set."""
    found = re.search(rf"^{name} ([0-9.e+]+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def container_age_seconds() -> float:
    """Seconds since its first process began."""
    ticks_after_boot = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks_after_boot / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
