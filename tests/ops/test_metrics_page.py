from pathlib import Path

from prometheus_client import REGISTRY

from ops.metrics import defined
from ops.metrics_page import page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_the_reference_page_is_made_from_the_metrics_as_they_are() -> None:
    assert PAGE.read_text() == page(), "stale: python -m ops.metrics_page > docs/metrics.md"


def test_every_metric_of_ours_that_is_served_stands_on_it() -> None:
    served = {family.name for family in REGISTRY.collect() if family.name.startswith("diptych_")}
    assert served == {next(iter(metric.describe())).name for metric in defined()}


def test_names_say_subsystem_and_unit() -> None:
    units = ("_seconds", "_bytes", "_ratio", "_celsius", "_watts", "_nats", "_batches", "_total", "_steps")
    unitless = {
        "diptych_run", "diptych_run_restarts", "diptych_run_ranks", "diptych_run_step", "diptych_train_learning_rate",
        "diptych_train_temperature", "diptych_train_gradient_norm", "diptych_train_largest_trust_ratio",
        "diptych_train_epoch", "diptych_health_value", "diptych_checkpoint_last_step", "diptych_checkpoint_failing",
        # counters, whose unit is what they count; the suffix _total is Prometheus's
        "diptych_train_images", "diptych_checkpoint_failures", "diptych_data_samples_skipped", "diptych_data_images",
    }  # fmt: skip
    for metric in defined():
        (family,) = metric.describe()
        assert family.name in unitless or family.name.endswith(units), family.name
        assert family.name.split("_")[1] in {"run", "train", "probe", "health", "checkpoint", "data", "disk", "device"}
        assert family.documentation.endswith((".", "docs/learning.md."))
