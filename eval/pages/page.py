"""The parts put together: one HTML page that needs nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from eval.pages.config import ReportConfig
from eval.pages.confusion import class_tables, confusions
from eval.pages.curves import draw_curves
from eval.pages.description import changed_settings, fact_rows, setting_rows
from eval.pages.embeddings import draw_spectrum, feature_spaces
from eval.pages.figures import COLOURS, DASHES
from eval.pages.neighbours import neighbour_sheets
from eval.pages.run_files import Run
from eval.pages.score_tables import difference_rows, score_tables
from eval.pages.views_sheet import views_sheets

_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class RunKey:
    """How a run is told apart."""

    name: str
    colour: str
    dashes: str


def render(runs: Sequence[Run], config: ReportConfig) -> str:
    """The page.

    Args:
        runs: as `read_runs` gives them.
        config: how much is shown.
    """
    differing, agreeing = setting_rows(runs)
    differences, no_differences = difference_rows(runs)
    errors, no_errors = confusions(runs)
    spaces, no_spaces = feature_spaces(runs, config.points)
    neighbours, no_neighbours = neighbour_sheets(runs, config)
    views, no_views = views_sheets(runs, config)
    # Names of runs and classes come from files: everything is escaped but what is Markup, which figures.py makes.
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"percent": percent, "points": points, "breakable": breakable}
    return environment.get_template("page.html.j2").render(
        style=Markup((_HERE / "page.css").read_text()),  # noqa: S704  # ours
        runs=[
            RunKey(name=run.name, colour=colour, dashes=dashes)
            for run, colour, dashes in zip(runs, COLOURS, DASHES, strict=False)
        ],
        facts=fact_rows(runs),
        differing=differing,
        agreeing=agreeing,
        changed=changed_settings(runs[0]) if len(runs) == 1 else [],
        curves=draw_curves(runs),
        tables=score_tables(runs),
        no_scores=[f"{run.name}: {run.why_no_evaluation}" for run in runs if run.evaluation is None],
        differences=differences,
        no_differences=no_differences,
        confusions=errors,
        no_confusions=no_errors,
        classes=class_tables(errors),
        colour_of={run.name: colour for run, colour in zip(runs, COLOURS, strict=False)},
        spaces=spaces,
        no_spaces=no_spaces,
        spectrum=draw_spectrum(spaces) if spaces else None,
        neighbours=neighbours,
        no_neighbours=no_neighbours,
        views=views,
        no_views=no_views,
    )


def percent(share: float) -> str:
    """A share in [0, 1] without its sign for per cent."""
    return f"{100 * share:.1f}"


def points(share: float) -> str:
    """A difference of shares in points, always with a sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def breakable(name: str) -> Markup:
    """A setting's name, which a narrow column may break between its words."""
    return escape(name).replace("_", Markup("_<wbr>"))
