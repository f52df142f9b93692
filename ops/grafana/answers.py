"""Asking Prometheus what a dashboard asks it, with the dashboard's variables filled in."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ops.grafana.boards import Json
from train.errors import RunError

Floats = npt.NDArray[np.float64]
ALL = ".*"
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Span:
    """What is asked for, and when."""

    server: str
    """URL of a Prometheus server."""
    end: float
    """Unix time up to which is asked."""
    seconds: float
    """Length of the range before it."""
    rate_interval: str = "10s"
    """Stands for `$__rate_interval`; Grafana makes it at least four scrapes long."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Regular expressions by the names of the template variables; those not named here stand for all."""


@dataclass(frozen=True)
class Series:
    """One of an answer."""

    labels: Mapping[str, str]
    times: Floats
    """Unix time of each value, (N,); one value where an instant was asked for."""
    values: Floats
    """(N,); may hold NaN and infinities."""

    def name(self, legend: str) -> str:
        """What a legend such as `{{run}} rank {{rank}}` calls it."""
        return re.sub(r"{{\s*(\w+)\s*}}", lambda match: self.labels.get(match[1], ""), legend)


def filled_in(expression: str, span: Span) -> str:
    """Replace every variable of an expression, Grafana's own and ours."""
    values = {"__rate_interval": span.rate_interval, "__range": f"{span.seconds:.0f}s"} | dict(span.variables)
    return re.sub(r"\$(\w+)", lambda match: values.get(match[1], ALL), expression)


def at_an_instant(expression: str, span: Span) -> list[Series]:
    """Values at the end of the span."""
    answer = _ask(span.server, "query", query=filled_in(expression, span), time=f"{span.end:.3f}")
    return [_series(each["metric"], [each["value"]]) for each in answer]


def over_a_range(expression: str, span: Span, points: int = 200) -> list[Series]:
    """Values over the span, at most about so many."""
    step = max(1.0, span.seconds / points)
    answer = _ask(
        span.server,
        "query_range",
        query=filled_in(expression, span),
        start=f"{span.end - span.seconds:.3f}",
        end=f"{span.end:.3f}",
        step=f"{step:.3f}",
    )
    return [_series(each["metric"], each["values"]) for each in answer]


def _series(labels: Mapping[str, str], pairs: Sequence[tuple[float, str]]) -> Series:
    times = np.array([time for time, _ in pairs], dtype=np.float64)
    return Series(labels, times, np.array([float(value) for _, value in pairs], dtype=np.float64))


def _ask(server: str, what: str, **parameters: str) -> list[Json]:
    """The result of a query, as the server's JSON has it."""
    url = f"{server.rstrip('/')}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
    if not url.startswith(("http://", "https://")):
        raise RunError(f"prometheus: {server} is no URL such as http://127.0.0.1:9090")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310  # checked above
            data = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        raise RunError(f"prometheus: {server} refused {parameters['query']}: {_reason(error)}") from None
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"prometheus: {server} does not answer as one does ({error})") from None
    return list(data)


def _reason(error: urllib.error.HTTPError) -> str:
    """What the server says of a refusal: JSON of a query, plain text while it still starts (503)."""
    body = error.read().decode(errors="replace").strip()
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body or str(error.reason)
