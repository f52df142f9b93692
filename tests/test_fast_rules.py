"""Durations of rules are divided, and nothing else is."""

from pathlib import Path

import pytest
from fast_rules import fast_rules


@pytest.mark.parametrize(
    ("rule", "faster"),
    [
        ("expr: rate(steps[5m])", "expr: rate(steps[5000ms])"),
        ("for: 10m", "for: 10000ms"),
        ("expr: avg_over_time(rate5m[1h] offset 10m)", "expr: avg_over_time(rate5m[60000ms] offset 10000ms)"),
        ("expr: max_over_time(steps[1h30m:2m])", "expr: max_over_time(steps[90000ms:2000ms])"),
        ("expr: time() - start > 15 * 60", "expr: time() - start > 15 * 1"),
        ("expr: 10 * rank:step:p50 > 2e9", "expr: 10 * rank:step:p50 > 2e9"),
        ("record: run:images:rate5m", "record: run:images:rate5m"),
        ("description: within 15 minutes", "description: within 15 minutes"),
    ],
)
def test_time_runs_sixty_times_as_fast(rule: str, faster: str, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "some.yml").write_text(f"- {rule}\n")
    fast_rules(tmp_path / "rules", tmp_path / "fast")
    assert (tmp_path / "fast" / "some.yml").read_text() == f"- {faster}\n"


def test_seconds_are_divided_by_what_was_asked(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "some.yml").write_text("expr: age > 5 * 60\nfor: 2m\n")
    fast_rules(tmp_path / "rules", tmp_path / "fast", divide_by=120)
    assert (tmp_path / "fast" / "some.yml").read_text() == "expr: age > 5 * 0.5\nfor: 1000ms\n"
