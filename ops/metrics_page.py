"""The reference page of all metrics, made from their definitions.

python -m ops.metrics_page > docs/metrics.md
"""

from ops.metrics import Metric, defined

_INTRODUCTION = """\
# Metrics

Made by `python -m ops.metrics_page` from ops/metrics.py; change that, not this.

Each rank serves a page of its own at `http://127.0.0.1:9400/metrics` (`metrics.port`, and the next port for each
further rank of the node). Which run, rank and node it belongs to is said by the labels `run`, `rank` and `node` of
the target, which each rank writes as a file of Prometheus's file-based service discovery ([running.md](running.md)).

What has no value is not on the page: checkpoints are told of by rank 0, the probe where there are labels, the device
where there is one, what a log line tells once there was one. A histogram is served as `_bucket`, `_sum` and `_count`,
a summary as `_sum` and `_count`. `process_*` and `python_*`, such as `process_resident_memory_bytes`, are
prometheus-client's own.

| metric | kind | labels | meaning |
|---|---|---|---|
"""


def page() -> str:
    """Markdown, a line for each metric in the order of ops/metrics.py."""
    return _INTRODUCTION + "".join(f"{_row(metric)}\n" for metric in defined())


def _row(metric: Metric) -> str:
    (family,) = metric.describe()
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    name = family.name + suffix
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # the library has no other way to ask
    return f"| `{name}` | {family.type} | {labels} | {family.documentation} |"


if __name__ == "__main__":
    print(page(), end="")
