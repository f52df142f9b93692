"""What a study came to: results.json for programs, a table for people. What is not done yet is shown as missing."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from eval.studies.published import SOURCE
from eval.studies.runs import Work, lasted
from eval.studies.scores import encoder_parameters, read_results, run_scores, score_of
from eval.studies.settings import Run
from eval.studies.study import Cell

MISSING = "-"
COLUMN_TITLES = {"linear_sgd": "linear, SGD", "contrastive": "contrastive task"}
_CONTROLS = {"random_init": "random init", "raw_pixels": "raw pixels"}
_MEASURED_WITH = ("world_size", "hardware", "versions", "git_revision")


def summary(work: Work, runs: Sequence[Run], made: Mapping[str, Any], failed: Mapping[str, str]) -> dict[str, Any]:
    """What results.json holds.

    Args:
        work: the study.
        runs: all of it, done or not.
        made: how, as far as runs do not say: command, budget, data.
        failed: what was wrong, by the name of the run.

    Raises:
        EvaluationError: a file of a run is damaged, or it was made with other settings.
    """
    cells = [_cell(work, cell, [run for run in runs if run.cell is cell], failed) for cell in work.study.cells]
    first = read_results(work.directory / runs[0].name)
    return {
        "format": "diptych-study",
        "version": 1,
        "study": work.study.name,
        "title": work.study.title,
        "source": f"{SOURCE}, {work.study.source}",
        "columns": [*work.protocols, *work.study.columns],
        **made,
        "departures": list(work.study.departures),
        "controls": {
            control: {name: score for name in work.protocols if (score := score_of(first, name, control)) is not None}
            for control in _CONTROLS
        },
        "measured_with": {name: first[name] for name in _MEASURED_WITH if name in first},
        "cells": cells,
    }


def _cell(work: Work, cell: Cell, runs: Sequence[Run], failed: Mapping[str, str]) -> dict[str, Any]:
    sizes = (encoder_parameters(work.directory / run.name) for run in runs)
    return {
        "name": cell.name,
        "place": dict(zip(work.study.axes, cell.place, strict=True)),
        "flags": list(cell.flags),
        "published": cell.published,
        "parameters": next((size for size in sizes if size is not None), None),  # of the first seed that is trained
        "runs": [_told(work, run, failed.get(run.name)) for run in runs],
    }


def _told(work: Work, run: Run, failure: str | None) -> dict[str, Any]:
    work.refuse_other_settings(run)
    directory = work.directory / run.name
    told: dict[str, Any] = {
        "number": run.number,
        "seed": run.seed,
        "scores": run_scores(directory, work.study, work.protocols),
        "seconds": lasted(directory),
    }
    return told | ({"failed": failure} if failure else {})


def shares(cell: Mapping[str, Any], column: str) -> list[float]:
    """A cell's scores by seed, of those that are there; cell as in results.json."""
    return [run["scores"][column] for run in cell["runs"] if column in run["scores"]]


def report(work: Work, results: Mapping[str, Any]) -> str:
    """STUDY.md: what was done, a row per cell, what the paper says, where the study departs from it."""
    study, columns = work.study, results["columns"]
    theirs = [column for column in columns if any(column in cell.published for cell in study.cells)]
    titles = [COLUMN_TITLES.get(column, column) for column in columns]
    header = [*study.axes, *titles, *(f"paper: {COLUMN_TITLES.get(column, column)}" for column in theirs)]
    rows = [
        [*_place(cell), *(_ours(told, column) for column in columns), *(_theirs(cell, column) for column in theirs)]
        for cell, told in zip(study.cells, results["cells"], strict=True)
    ]
    aligned = "|---" * len(study.axes) + "|---:" * (len(header) - len(study.axes)) + "|"
    table = "\n".join(["| " + " | ".join(header) + " |", aligned, *("| " + " | ".join(row) + " |" for row in rows)])
    paper = f"The paper's numbers: {SOURCE}, {study.source}; not comparable in height. " if theirs else ""
    return "\n\n".join(
        [
            f"# {study.title}",
            f"{subtitle(results)}. Test images answered rightly, in per cent: mean over seeds, and their range.",
            *([_controls(results)] if any(results["controls"].values()) else []),
            table,
            *_unfinished(results),
            f"{paper}What the paper finds ({study.source}): {study.finding}",
            "Where this is not the paper's study:",
            "\n".join(f"- {departure}" for departure in (*study.departures, _same_settings(results))),
        ]
    )


def _place(cell: Cell) -> tuple[str, ...]:
    """As tables show it: an operation that is composed with itself stands alone."""
    alone = len(cell.place) == 2 and cell.place[0] == cell.place[1]
    return (cell.place[0], "alone") if alone else cell.place


def epochs_of(results: Mapping[str, Any]) -> str:
    """How long the longest cells were trained."""
    epochs = results["epochs"]
    return f"{epochs} epoch{'s' * (epochs > 1)}"


def subtitle(results: Mapping[str, Any]) -> str:
    """What every cell had: data, length, seeds."""
    data, seeds = results["data"], results["seeds"]
    budget = f", chosen for {results['budget']['asked']}" if results.get("budget") else ""
    network = f"{results['network']}, " if results["network"] else ""
    return (
        f"{network}{data['images']:,} images of {data['name']}, {epochs_of(results)}{budget}, "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    )


def _ours(told: Mapping[str, Any], column: str) -> str:
    values = [100 * share for share in shares(told, column)]
    if not values:
        return MISSING
    text = f"{mean(values):.1f}"
    if len(values) > 1:
        text += f" ({min(values):.1f} to {max(values):.1f})"
    return text if len(values) == len(told["runs"]) else f"{text}, {len(values)} of {len(told['runs'])} seeds"


def _theirs(cell: Cell, column: str) -> str:
    return f"{cell.published[column]:.1f}" if column in cell.published else MISSING


def _controls(results: Mapping[str, Any]) -> str:
    told = [
        f"{_CONTROLS[control]} {', '.join(f'{100 * share:.1f} ({column})' for column, share in scores.items())}"
        for control, scores in results["controls"].items()
        if scores
    ]
    return f"For comparison: {'; '.join(told)}."


def _unfinished(results: Mapping[str, Any]) -> list[str]:
    runs = [(cell["name"], run) for cell in results["cells"] for run in cell["runs"]]
    undone = [(name, run) for name, run in runs if not set(results["columns"]) <= set(run["scores"])]
    lines = [f"{len(undone)} of {len(runs)} runs are not done."] if undone else []
    return lines + [f"{name}, seed {run['seed']}: {run['failed']}" for name, run in undone if "failed" in run]


def _same_settings(results: Mapping[str, Any]) -> str:
    return (
        f"Every cell has the settings of {results['config']} otherwise, nothing is tuned, and is trained for "
        f"{epochs_of(results)}; the paper's are trained for 100 or more."
    )
