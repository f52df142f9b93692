"""A table with a line for each rank."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.models import common, dashboard, table

from ops.grafana.panels import Query, letter, override, panel_of, target_of, thresholds_of


@dataclass(frozen=True)
class Column:
    """Of a table: one value for each rank."""

    title: str
    expr: str
    unit: str


def rank_table(
    title: str, reads: str, columns: Sequence[Column], *, width: int = 24, height: int = 9
) -> dashboard.Panel:
    """A line for each rank; the columns' answers are joined by run, node and rank."""
    letters = [letter(number) for number in range(len(columns))]
    identity = ["run", "node", "rank"]
    organize = {
        "excludeByName": {"Time": True},
        "renameByName": {f"Value #{letter}": column.title for letter, column in zip(letters, columns, strict=True)},
        "indexByName": {
            name: place for place, name in enumerate(identity + [f"Value #{letter}" for letter in letters])
        },
    }
    targets = [target_of(Query(column.expr, ""), number, kind="table") for number, column in enumerate(columns)]
    panel = panel_of(
        "table",
        title,
        reads,
        (width, height),
        dashboard.FieldConfig(unit="short", custom=table.FieldConfig(filterable=True), thresholds=thresholds_of(None)),
        table.Options(cell_height=common.TableCellHeight.SM),
        targets,
        [override(column.title, "unit", column.unit) for column in columns],
    )
    panel.transformations = [
        dashboard.DataTransformerConfig(id_val="merge", options={}),
        dashboard.DataTransformerConfig(id_val="organize", options=organize),
    ]
    return panel
