"""What can be said of the dashboards without a server."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ops import metrics
from ops.grafana.amounts import amount
from ops.grafana.answers import Span, filled_in
from ops.grafana.boards import DASHBOARDS, Json, committed_boards, needs_a_gpu, panels_of

PROVISIONING = DASHBOARDS.parent / "provisioning"
BOARDS = committed_boards()
SPAN = Span(server="http://127.0.0.1:9090", end=0, seconds=60)
GPU_METRICS = re.compile(r"diptych_device_\w+|DCGM_\w+")
# The classic format, which Grafana 12 loads from files; the SDK would rather have the one of Grafana 13.
pytestmark = pytest.mark.filterwarnings("ignore:Prefer using dashboardv2:DeprecationWarning")
EACH_BOARD = pytest.mark.parametrize("board", BOARDS, ids=lambda board: str(board["uid"]))


def targets_of(board: Json) -> Iterator[tuple[Json, Json]]:
    for panel in panels_of(board):
        for target in panel.get("targets", ()):
            yield panel, target


def test_the_committed_files_are_what_the_code_emits() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="the extra dev is not installed")
    from ops.grafana.__main__ import emitted

    assert {path.name: path.read_text() for path in DASHBOARDS.iterdir()} == emitted()


@EACH_BOARD
def test_the_sdk_reads_a_dashboard_back(board: Json) -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="the extra dev is not installed")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    for panel in (again, *panels_of(again)):
        for link in panel.get("links") or ():
            link.pop("placement", None)  # which we leave out, see ops/grafana/layout.py
    assert again == board


def test_names_are_stable_and_unique() -> None:
    assert [board["uid"] for board in BOARDS] == [
        "diptych-data",
        "diptych-fleet",
        "diptych-learning",
        "diptych-throughput",
    ]
    assert all("id" not in board and board["version"] == 1 for board in BOARDS)
    for board in BOARDS:
        numbers = [panel["id"] for panel in (*panels_of(board), *board["panels"])]
        rows = [panel for panel in board["panels"] if panel["type"] == "row"]
        assert len(set(numbers)) == len(list(panels_of(board))) + len(rows)


@EACH_BOARD
def test_panels_lie_side_by_side_within_24_columns(board: Json) -> None:
    rows = [panel["gridPos"] for panel in board["panels"] if panel["type"] == "row"]
    places = [panel["gridPos"] for panel in panels_of(board)] + rows
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] > 0 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, f"{one} overlaps {other}"


@EACH_BOARD
def test_every_panel_says_what_to_read_from_it_in_which_unit(board: Json) -> None:
    for panel in panels_of(board):
        assert panel["title"]
        assert len(panel["description"]) > 10, panel["title"]
        if panel["type"] != "text":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["targets"], panel["title"]
    for panel, target in targets_of(board):
        assert panel["type"] == "table" or target["legendFormat"], panel["title"]


@EACH_BOARD
def test_the_data_source_is_a_variable_everywhere(board: Json) -> None:
    def uids(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (each for name, each in value.items() if name == "uid")
            yield from itertools.chain.from_iterable(map(uids, value.values()))
        elif isinstance(value, list):
            yield from itertools.chain.from_iterable(map(uids, value))

    assert set(uids(board)) == {"${datasource}", board["uid"]}
    assert all(target["datasource"]["uid"] == "${datasource}" for _, target in targets_of(board))


@EACH_BOARD
def test_only_variables_that_a_dashboard_has_are_used(board: Json) -> None:
    names = {variable["name"] for variable in board["templating"]["list"]}
    assert {"datasource", "run"} <= names
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board)))
    assert used - {"__rate_interval", "__all"} == names


@EACH_BOARD
def test_links_lead_to_the_runbook_and_the_other_dashboards(board: Json) -> None:
    dashboards, runbook = board["links"]
    assert (dashboards["type"], dashboards["tags"], dashboards["includeVars"]) == ("dashboards", board["tags"], True)
    assert runbook["url"].endswith("docs/runbook.md")


def test_another_runbook_is_linked_everywhere(tmp_path: Path) -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="the extra dev is not installed")
    command = [sys.executable, "-m", "ops.grafana", f"--output={tmp_path}", "--runbook=https://here/runbook.md"]
    subprocess.run(command, cwd=DASHBOARDS.parents[2], check=True, capture_output=True)
    texts = [path.read_text() for path in tmp_path.iterdir()]
    assert len(texts) == 4
    assert all("https://here/runbook.md" in text and "example.org" not in text for text in texts)


def test_panels_link_to_alerts_that_there_are() -> None:
    rules = DASHBOARDS.parents[1] / "prometheus" / "rules"
    if not rules.is_dir():
        pytest.skip("there are no rules yet")
    alerts = {alert.lower() for path in rules.glob("*.yml") for alert in re.findall(r"alert: (\w+)", path.read_text())}
    linked = {
        link["url"].partition("#")[2]
        for board in BOARDS
        for panel in panels_of(board)
        for link in panel.get("links", ())
    }
    assert len(linked) > 10
    assert linked <= alerts


@EACH_BOARD
def test_a_panel_needs_a_gpu_if_and_only_if_its_metrics_do(board: Json) -> None:
    for panel, target in targets_of(board):
        assert needs_a_gpu(panel) == bool(GPU_METRICS.search(target["expr"])), panel["title"]


def test_every_metric_that_is_asked_for_is_defined() -> None:
    sums = ["_sum", "_count"]
    ends = {"counter": ["_total"], "histogram": ["_bucket", *sums], "summary": sums, "info": ["_info"], "gauge": [""]}
    defined = {
        family.name + end for metric in metrics.defined() for family in metric.describe() for end in ends[family.type]
    }
    for board in BOARDS:
        queries = [variable["definition"] for variable in board["templating"]["list"] if "definition" in variable]
        for expression in [*queries, *(target["expr"] for _, target in targets_of(board))]:
            assert set(re.findall(r"diptych_\w+", expression)) <= defined, expression


def test_promtool_parses_every_expression(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    expressions = [filled_in(target["expr"], SPAN) for board in BOARDS for _, target in targets_of(board)]
    rules = [{"record": f"dashboard:{number}", "expr": each} for number, each in enumerate(expressions)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    checked = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(expressions)} rules found" in checked.stdout
    assert "$" not in file.read_text()


def test_columns_of_the_table_have_units() -> None:
    (table,) = [panel for board in BOARDS for panel in panels_of(board) if panel["type"] == "table"]
    titles = set(table["transformations"][1]["options"]["renameByName"].values())
    assert {override["matcher"]["options"] for override in table["fieldConfig"]["overrides"]} == titles
    assert len(titles) == len(table["targets"])


def test_grafana_is_provisioned_with_what_is_here() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "diptych.yaml").read_text())["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/etc/grafana/dashboards")


def test_compose_mounts_them_where_grafana_is_told_to_look() -> None:
    compose = DASHBOARDS.parents[1] / "compose.yaml"
    if not compose.exists():
        pytest.skip("there is no ops/compose.yaml yet")
    volumes = yaml.safe_load(compose.read_text())["services"]["grafana"]["volumes"]
    places = dict(str(volume).split(":")[:2] for volume in volumes)
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "diptych.yaml").read_text())["providers"]
    assert places["./grafana/provisioning"] == "/etc/grafana/provisioning"
    assert places["./grafana/dashboards"] == provider["options"]["path"]


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "written"),
    [
        (0.0123, "s", None, "12.3 ms"),
        (0.0, "s", None, "0 s"),
        (5400.0, "s", None, "1.50 hours"),
        (0.283, "percentunit", 0, "28%"),
        (3 * 1024**3, "bytes", None, "3 GiB"),
        (2.5e6, "Bps", None, "2.50 MB/s"),
        (1234.0, "suffix: images/s", None, "1234 images/s"),
        (0.0, "bool_yes_no", None, "No"),
        (float("nan"), "s", None, "nan"),
        (4.0, "none", None, "4"),
        (0.1234, "none", None, "0.123"),
    ],
)
def test_amounts_are_written_with_their_unit(value: float, unit: str, decimals: int | None, written: str) -> None:
    assert amount(value, unit, decimals) == written
