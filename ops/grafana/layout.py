"""A dashboard of rows of panels, with the variables and links that all of ours share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from ops.grafana.boards import Json, panels_of
from ops.grafana.panels import DATASOURCE, RUNBOOK

COLUMNS = 24
SCHEMA_VERSION = 41
"""Of Grafana 12.1; later ones migrate what they load."""
VERSION = 1
TAG = "diptych"
_LABEL_VALUES = 1
"""Kind of a variable's query, by which Grafana's editor knows how to show it."""


@dataclass(frozen=True)
class Row:
    """A heading and what stands under it."""

    title: str
    panels: Sequence[dashboard.Panel]
    each_run: bool = False
    """Repeat it for every run that is chosen; the title should name `$run`."""
    collapsed: bool = False


def board(name: str, reads: str, rows: Sequence[Row], *, ranks: bool, hosts: bool = False) -> Json:
    """Lay out the rows.

    Args:
        name: of the dashboard; also makes its uid.
        reads: what it answers.
        rows: from top to bottom.
        ranks: whether nodes and ranks can be chosen, beside runs.
        hosts: whether hosts that DCGM knows can be.

    Returns:
        What Grafana loads.
    """
    variables = [_datasource(), _choice("run", "Run", "label_values(diptych_run_info, run)")]
    if ranks:
        variables.append(_choice("node", "Node", 'label_values(diptych_run_info{run=~"$run"}, node)'))
        variables.append(_choice("rank", "Rank", 'label_values(diptych_run_info{run=~"$run", node=~"$node"}, rank)'))
    if hosts:
        variables.append(_choice("host", "Host with DCGM", "label_values(DCGM_FI_DEV_GPU_UTIL, Hostname)"))
    built = dashboard.Dashboard(
        uid=f"diptych-{name.lower()}",
        title=f"Diptych: {name}",
        description=reads,
        tags=[TAG],
        timezone="browser",
        editable=True,
        graph_tooltip=dashboard.DashboardCursorSync.CROSSHAIR,
        time=dashboard.DashboardDashboardTime(from_val="now-1h", to="now"),
        refresh="10s",
        schema_version=SCHEMA_VERSION,
        version=VERSION,
        panels=_placed(rows),
        templating=dashboard.DashboardDashboardTemplating(list_val=variables),
        annotations=dashboard.AnnotationContainer(list_val=[]),
        links=_links(),
    )
    loaded: Json = json.loads(JSONEncoder().encode(built))
    for link in (*loaded["links"], *(link for panel in panels_of(loaded) for link in panel.get("links") or ())):
        del link["placement"]  # the SDK knows only of a menu, in which Grafana 12.3 and later would hide them
    return loaded


def _placed(rows: Sequence[Row]) -> list[dashboard.Panel | dashboard.RowPanel]:
    """Panels from left to right, a line under another where one is full, numbered from 1."""
    placed: list[dashboard.Panel | dashboard.RowPanel] = []
    y, number = 0, 1
    for row in rows:
        heading = dashboard.RowPanel(
            title=row.title,
            id_val=number,
            collapsed=row.collapsed,
            grid_pos=dashboard.GridPos(x=0, y=y, w=COLUMNS, h=1),
            repeat="run" if row.each_run else None,
            panels=list(row.panels) if row.collapsed else [],
        )
        placed.append(heading)
        y, x, line = y + 1, 0, 0
        for panel in row.panels:
            number += 1
            size = panel.grid_pos or dashboard.GridPos()
            if x + size.w > COLUMNS:
                y, x, line = y + line, 0, 0
            panel.id_val = number
            panel.grid_pos = dashboard.GridPos(x=x, y=y, w=size.w, h=size.h)
            x, line = x + size.w, max(line, size.h)
        y, number = y + line, number + 1
        if not row.collapsed:
            placed.extend(row.panels)
    return placed


def _datasource() -> dashboard.VariableModel:
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.DATASOURCE,
        name="datasource",
        label="Data source",
        query="prometheus",
        refresh=dashboard.VariableRefresh.ON_DASHBOARD_LOAD,
    )


def _choice(name: str, label: str, query: str) -> dashboard.VariableModel:
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.QUERY,
        name=name,
        label=label,
        datasource=DATASOURCE,
        query={"qryType": _LABEL_VALUES, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        definition=query,
        current=dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]),
        multi=True,
        include_all=True,
        refresh=dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=dashboard.VariableSort.NUMERICAL_ASC if name == "rank" else dashboard.VariableSort.ALPHABETICAL_ASC,
    )


def _links() -> list[dashboard.DashboardLink]:
    others = dashboard.DashboardLink(
        title="Diptych",
        type_val=dashboard.DashboardLinkType.DASHBOARDS,
        tags=[TAG],
        icon="external link",
        include_vars=True,
        keep_time=True,
    )
    runbook = dashboard.DashboardLink(
        title="Runbook",
        type_val=dashboard.DashboardLinkType.LINK,
        url=RUNBOOK,
        icon="doc",
        tooltip="What each alert means and what to do",
        target_blank=True,
    )
    return [others, runbook]
