"""Rules, their cases, and the runbook agree with each other, with the metrics, and with what programs say."""

import ast
import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.metrics import defined
from train.config import PretrainConfig, flatten

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "ops" / "prometheus" / "rules").glob("*.yml"))
CASES = sorted((ROOT / "tests" / "ops" / "prometheus").glob("*.yml"))
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
SOURCES = ("train", "pipelines", "model", "eval", "ops")
SUFFIXES = ("", "_bucket", "_sum", "_count", "_total", "_info")
OWN = r"\bdiptych_[a-z0-9_]+(?!:)\b"
"""A metric of ours; recorded names have colons around theirs."""


def rules(kind: str) -> list[dict[str, Any]]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


ALERTS = {str(rule["alert"]): rule for rule in rules("alert")}
EACH_ALERT = pytest.mark.parametrize("name", sorted(ALERTS))


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def queries_of_the_runbook() -> list[str]:
    blocks = re.findall(r"^```promql\n(.*?)^```", RUNBOOK, re.MULTILINE | re.DOTALL)
    return [query for block in blocks for query in block.splitlines()]


def metric_names(text: str) -> set[str]:
    """Ours, as they are stored, without those that rules record."""
    without_recorded = re.sub(r"\b[a-z_]+:[a-z0-9_]+:[a-z0-9_]+", "", text)
    return set(re.findall(OWN, without_recorded))


def stored_names() -> set[str]:
    families = [family for metric in defined() for family in metric.describe()]
    return {family.name + suffix for family in families for suffix in SUFFIXES}


def said() -> set[str]:
    """Pieces of text between the values that programs put into it."""
    pieces = set()
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    pieces.add(node.value)
    return pieces


def test_the_configuration_is_accepted() -> None:
    done = promtool("check", "config", "ops/prometheus/prometheus.yml")
    assert done.returncode == 0, done.stderr
    assert f"{len(RULES)} rule files found" in done.stdout


def test_the_rules_are_accepted() -> None:
    done = promtool("check", "rules", *RULES)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_the_cases_come_out_as_expected(case: Path) -> None:
    done = promtool("test", "rules", case)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_case_that_expects_something_else_would_be_noticed(tmp_path: Path) -> None:
    text = (ROOT / "tests" / "ops" / "prometheus" / "devices.yml").read_text()
    text = text.replace("../../../ops", str(ROOT / "ops")).replace("gpu: 3", "gpu: 4")
    (tmp_path / "devices.yml").write_text(text)
    assert promtool("test", "rules", tmp_path / "devices.yml").returncode != 0


@EACH_ALERT
def test_every_alert_fires_in_one_case_and_holds_still_in_another(name: str) -> None:
    expected = [
        bool(check["exp_alerts"])
        for path in CASES
        for test in yaml.safe_load(path.read_text())["tests"]
        for check in test["alert_rule_test"]
        if check["alertname"] == name
    ]
    assert set(expected) == {True, False}


@EACH_ALERT
def test_every_alert_says_how_bad_it_is_what_it_is_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"


def test_the_runbook_has_a_section_for_every_alert_and_for_no_other() -> None:
    headings = re.findall(r"^### (Diptych\w+)$", RUNBOOK, re.MULTILINE)
    assert sorted(headings) == sorted(ALERTS)


@EACH_ALERT
def test_every_section_says_what_to_do(name: str) -> None:
    section = RUNBOOK.partition(f"### {name}\n")[2].partition("\n#")[0]
    assert re.search(r"^- Do: ", section, re.MULTILINE)


def test_links_within_the_runbook_lead_to_headings() -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", RUNBOOK, re.MULTILINE)
    }
    linked = set(re.findall(r"\]\(#([\w-]+)\)", RUNBOOK))
    assert len(linked) > 10
    assert linked <= headings


def test_alerts_named_elsewhere_exist() -> None:
    pages = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
    named = {(page, name) for page, text in pages.items() for name in re.findall(r"\bDiptych[A-Z]\w+", text)}
    assert {(page, name) for page, name in named if name not in ALERTS} == set()


def test_rules_and_runbook_name_metrics_that_there_are() -> None:
    named = metric_names("\n".join(str(rule["expr"]) for rule in [*rules("alert"), *rules("record")]))
    assert len(named) > 20
    assert named | metric_names("\n".join(queries_of_the_runbook())) <= stored_names()


def test_rules_name_recorded_series_that_there_are() -> None:
    recorded = {rule["record"] for rule in rules("record")}
    texts = [str(rule["expr"]) for rule in [*rules("alert"), *rules("record")]] + queries_of_the_runbook()
    named = {name for text in texts for name in re.findall(r"\b[a-z_]+:[a-z0-9_]+:[a-z0-9_]+", text)}
    assert named == recorded, "each one is used, and each one used is recorded"


def test_rules_and_runbook_name_gpu_counters_that_are_exported() -> None:
    exported = set(re.findall(r"^(DCGM_\w+),", (ROOT / "ops" / "dcgm" / "counters.csv").read_text(), re.MULTILINE))
    named = set(re.findall(r"DCGM_FI_\w+", "".join(str(rule["expr"]) for rule in rules("alert")) + RUNBOOK))
    assert named
    assert named <= exported


def test_queries_of_the_runbook_are_accepted(tmp_path: Path) -> None:
    queries = queries_of_the_runbook()
    assert len(queries) > 20
    group = {"name": "runbook", "rules": [{"record": f"query:{i}", "expr": query} for i, query in enumerate(queries)]}
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [group]}))
    done = promtool("check", "rules", tmp_path / "queries.yml")
    assert done.returncode == 0, done.stderr


def test_errors_that_the_runbook_quotes_are_said_somewhere() -> None:
    errors = RUNBOOK.partition("\n## Errors\n")[2]
    quoted = re.findall(r"^\| `([^|]*)` \|", errors, re.MULTILINE)
    assert len(quoted) > 30
    pieces = said()
    assert [quote for quote in quoted if not any(quote in piece for piece in pieces)] == []


def test_fields_that_the_runbook_names_exist() -> None:
    fields = flatten(asdict(PretrainConfig()))
    sections = {name.partition(".")[0] for name in fields if "." in name}
    named = re.findall(rf"`(?:--)?((?:{'|'.join(sorted(sections))})\.[a-z_]+)\b(?![.(/])", RUNBOOK)
    assert len(set(named)) > 15
    assert set(named) - {"metrics.jsonl"} <= set(fields)
