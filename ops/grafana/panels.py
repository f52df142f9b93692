"""The kinds of panels that our dashboards are made of, in the models of Grafana's own SDK."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.models import bargauge, common, dashboard, prometheus, stat, text, timeseries

from ops.grafana.boards import NEEDS_A_GPU

DATASOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
NEUTRAL = "#5794F2"
RUNBOOK = "https://example.org/diptych/docs/runbook.md"
"""Stands for where a project's readers find docs/runbook.md; `python -m ops.grafana --runbook URL` replaces it."""
GOOD, WARNING, BAD = "green", "orange", "red"


@dataclass(frozen=True)
class Query:
    """What is asked, and what each series is called: `{{label}}` stands for a label's value."""

    expr: str
    legend: str


Limits = Mapping[float, str]
"""Colours from a value on. What is below all of them is NEUTRAL where nothing is good or bad about it, else GOOD."""


def lines(
    title: str,
    reads: str,
    unit: str,
    queries: Sequence[Query],
    *,
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
    logarithmic: bool = False,
    span: tuple[float | None, float | None] = (None, None),
    limits: Limits | None = None,
    colours: Mapping[str, str] | None = None,
    alerts: Sequence[str] = (),
    gpu: bool = False,
) -> dashboard.Panel:
    """Values over time.

    Args:
        title: of the panel.
        reads: what to read from it.
        unit: one of Grafana's, such as s, percentunit or Bps.
        queries: each may bring several lines.
        width: in columns of 24.
        height: in rows of 30 pixels.
        stacked: one upon the other, as filled areas.
        logarithmic: powers of ten on the y axis.
        span: ends of the y axis; None fits it to the values.
        limits: drawn as dashed lines.
        colours: of series, by their name; others have the palette's.
        alerts: to whose sections of the runbook the panel links.
        gpu: nothing is to be seen without one.
    """
    style = common.GraphThresholdsStyleConfig(
        mode=common.GraphThresholdsStyleMode.DASHED if limits else common.GraphThresholdsStyleMode.OFF
    )
    custom = timeseries.FieldConfig(
        draw_style=common.GraphDrawStyle.LINE,
        line_width=1 if stacked else 2,
        fill_opacity=60 if stacked else 0,
        show_points=common.VisibilityMode.NEVER,
        span_nulls=False,
        stacking=common.StackingConfig(mode=common.StackingMode.NORMAL, group="A") if stacked else None,
        thresholds_style=style,
        scale_distribution=(
            common.ScaleDistributionConfig(type_val=common.ScaleDistribution.LOG, log=10) if logarithmic else None
        ),
    )
    defaults = dashboard.FieldConfig(
        unit=unit,
        min_val=span[0],
        max_val=span[1],
        color=dashboard.FieldColor(mode=dashboard.FieldColorModeId.PALETTE_CLASSIC),
        thresholds=thresholds_of(limits),
        custom=custom,
    )
    options = timeseries.Options(
        legend=common.VizLegendOptions(
            display_mode=common.LegendDisplayMode.LIST,
            placement=common.LegendPlacement.BOTTOM,
            show_legend=True,
            calcs=["lastNotNull"],
        ),
        tooltip=common.VizTooltipOptions(mode=common.TooltipDisplayMode.MULTI, sort=common.SortOrder.DESCENDING),
    )
    overrides = [
        override(name, "color", dashboard.FieldColor(mode=dashboard.FieldColorModeId.FIXED, fixed_color=colour))
        for name, colour in (colours or {}).items()
    ]
    targets = [target_of(query, number, kind="range") for number, query in enumerate(queries)]
    panel = panel_of("timeseries", title, reads, (width, height), defaults, options, targets, overrides, gpu=gpu)
    panel.links = [_runbook(alert) for alert in alerts]
    return panel


def number(
    title: str,
    reads: str,
    unit: str,
    query: Query,
    *,
    width: int = 4,
    height: int = 4,
    limits: Limits | None = None,
    named: bool = False,
    decimals: int | None = None,
    alerts: Sequence[str] = (),
) -> dashboard.Panel:
    """The latest value, large, coloured by the limits; one for each series, `named` also where there is only one."""
    options = stat.Options(
        graph_mode=common.BigValueGraphMode.NONE if named else common.BigValueGraphMode.AREA,
        color_mode=common.BigValueColorMode.VALUE,
        text_mode=common.BigValueTextMode.VALUE_AND_NAME if named else common.BigValueTextMode.AUTO,
        justify_mode=common.BigValueJustifyMode.CENTER,
        orientation=common.VizOrientation.AUTO,
        reduce_options=common.ReduceDataOptions(calcs=["lastNotNull"], fields="", values=False),
    )
    defaults = dashboard.FieldConfig(unit=unit, decimals=decimals, thresholds=thresholds_of(limits))
    targets = [target_of(query, 0, kind="instant" if named else "range")]
    panel = panel_of("stat", title, reads, (width, height), defaults, options, targets)
    panel.links = [_runbook(alert) for alert in alerts]
    return panel


def bars(
    title: str,
    reads: str,
    unit: str,
    queries: Sequence[Query],
    *,
    width: int = 8,
    height: int = 9,
    colours: Mapping[str, str] | None = None,
    most: float | None = None,
) -> dashboard.Panel:
    """The values of now as bars, one under the other."""
    options = bargauge.Options(
        display_mode=common.BarGaugeDisplayMode.BASIC,
        value_mode=common.BarGaugeValueMode.TEXT,
        orientation=common.VizOrientation.HORIZONTAL,
        reduce_options=common.ReduceDataOptions(calcs=["lastNotNull"], fields="", values=False),
        show_unfilled=True,
        legend=common.VizLegendOptions(show_legend=False),
    )
    defaults = dashboard.FieldConfig(
        unit=unit,
        min_val=0,
        max_val=most,
        color=dashboard.FieldColor(mode=dashboard.FieldColorModeId.FIXED, fixed_color=NEUTRAL),
        thresholds=thresholds_of(None),
    )
    overrides = [
        override(name, "color", dashboard.FieldColor(mode=dashboard.FieldColorModeId.FIXED, fixed_color=colour))
        for name, colour in (colours or {}).items()
    ]
    targets = [target_of(query, number, kind="instant") for number, query in enumerate(queries)]
    return panel_of("bargauge", title, reads, (width, height), defaults, options, targets, overrides)


def words(title: str, markdown: str, *, width: int = 8, height: int = 4) -> dashboard.Panel:
    """Text that is always to be seen."""
    return dashboard.Panel(
        type_val="text",
        title=title,
        description=markdown,
        transparent=False,
        grid_pos=dashboard.GridPos(w=width, h=height),
        options=text.Options(mode=text.TextMode.MARKDOWN, content=markdown),
    )


def panel_of(
    kind: str,
    title: str,
    reads: str,
    size: tuple[int, int],
    defaults: dashboard.FieldConfig,
    options: object,
    targets: Sequence[prometheus.Dataquery],
    overrides: Sequence[dashboard.DashboardFieldConfigSourceOverrides] = (),
    *,
    gpu: bool = False,
) -> dashboard.Panel:
    """What all kinds have in common; `size` is columns and rows of the grid."""
    return dashboard.Panel(
        type_val=kind,
        title=title,
        description=f"{reads} {NEEDS_A_GPU}" if gpu else reads,
        transparent=False,
        datasource=DATASOURCE,
        grid_pos=dashboard.GridPos(w=size[0], h=size[1]),
        options=options,
        field_config=dashboard.FieldConfigSource(defaults=defaults, overrides=list(overrides)),
        targets=list(targets),
    )


def _runbook(alert: str) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(
        title=f"Runbook: {alert}",
        type_val=dashboard.DashboardLinkType.LINK,
        url=f"{RUNBOOK}#{alert.lower()}",
        target_blank=True,
    )


def target_of(query: Query, number: int, *, kind: Literal["range", "instant", "table"]) -> prometheus.Dataquery:
    """A query as a panel asks it: over the dashboard's range, or of now, for series or for lines of a table."""
    return prometheus.Dataquery(
        ref_id=letter(number),
        datasource=DATASOURCE,
        expr=query.expr,
        legend_format=query.legend,
        editor_mode=prometheus.QueryEditorMode.CODE,
        range_val=kind == "range",
        instant=kind != "range",
        format_val=prometheus.PromQueryFormat.TABLE if kind == "table" else prometheus.PromQueryFormat.TIME_SERIES,
    )


def letter(number: int) -> str:
    """By which a panel's query of this number, from 0, is known."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[number]


def thresholds_of(limits: Limits | None) -> dashboard.ThresholdsConfig:
    """Limits as Grafana has them, with what is below all of them."""
    steps = [dashboard.Threshold(value=None, color=GOOD if limits else NEUTRAL)]
    steps += [dashboard.Threshold(value=value, color=colour) for value, colour in sorted((limits or {}).items())]
    return dashboard.ThresholdsConfig(mode=dashboard.ThresholdsMode.ABSOLUTE, steps=steps)


def override(name: str, what: str, value: object) -> dashboard.DashboardFieldConfigSourceOverrides:
    """Set one property of the field that has this name."""
    return dashboard.DashboardFieldConfigSourceOverrides(
        matcher=dashboard.MatcherConfig(id_val="byName", options=name),
        properties=[dashboard.DynamicConfigValue(id_val=what, value=value)],
    )
