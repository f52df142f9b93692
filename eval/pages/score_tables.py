"""Scores beside their controls, and the differences that the answers to the same images allow to be told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from eval.errors import EvaluationError
from eval.pages.evaluation_files import ScoredData
from eval.pages.paired import Difference, paired_difference
from eval.pages.run_files import Run
from eval.results import Score

NAMES = {"encoder": "encoder", "random_init": "random init", "raw_pixels": "raw pixels", "h": "h", "z": "z"}
"""Representations, in this order, as tables call them."""
_CONTROLS = {"encoder": ("random_init", "raw_pixels"), "h": ("z",)}
_FROM_SCRATCH = {"finetune": "supervised"}
"""A protocol, and the one that learns the same from the same labels without pretraining."""


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A line of the table."""

    run: str
    number: int
    """Of the run, from 0."""
    representation: str
    score: Score
    details: str
    """What was chosen, such as k = 20."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """All runs' scores of one protocol and variant."""

    title: str
    metric: str
    rows: tuple[ScoreRow, ...]


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Scores of one data set."""

    data: ScoredData
    protocols: tuple[Protocol, ...]

    @property
    def scale(self) -> float:
        """A share, in tenths, that no interval exceeds."""
        highest = max(row.score.interval[1] for protocol in self.protocols for row in protocol.rows)
        return min(1.0, max(1, math.ceil(10 * highest)) / 10)


@dataclass(frozen=True, kw_only=True)
class DifferenceRow:
    """What one answers better than another."""

    protocol: str
    first: str
    second: str
    difference: Difference


def score_tables(runs: Sequence[Run]) -> list[ScoreTable]:
    """A table per data set that anything was scored on, protocols in the order of the evaluations."""
    scored = [(number, run, score) for number, run in enumerate(runs) for score in _scores(run)]
    data = {score.data: run.evaluation.data[score.data] for _, run, score in scored if run.evaluation}
    return [
        ScoreTable(
            data=data[key],
            protocols=tuple(
                _protocol(title, [entry for entry in scored if (entry[2].data, entry[2].title) == (key, title)])
                for title in dict.fromkeys(score.title for _, _, score in scored if score.data == key)
            ),
        )
        for key in data
    ]


def difference_rows(runs: Sequence[Run]) -> tuple[list[DifferenceRow], list[str]]:
    """Each run's encoder against its controls, then each later run's against the first's.

    Returns:
        The rows, and a line for each that cannot be made, because a file of answers is missing.
    """
    rows: list[DifferenceRow] = []
    missing: list[str] = []
    pairs = [pair for run in runs for pair in _against_controls(run)]
    pairs += [pair for later in runs[1:] for pair in _between(later, runs[0])]
    for first, second in pairs:
        try:
            row = _difference(first, second)
        except EvaluationError as error:
            missing.append(str(error))
        else:
            rows += [row] if row else []
    return rows, list(dict.fromkeys(missing))


def _scores(run: Run) -> tuple[Score, ...]:
    return run.evaluation.scores if run.evaluation else ()


def _protocol(title: str, scored: Sequence[tuple[int, Run, Score]]) -> Protocol:
    order = list(NAMES)

    def place(entry: tuple[int, Run, Score]) -> tuple[int, int]:
        representation = entry[2].representation
        return order.index(representation) if representation in order else len(order), entry[0]

    return Protocol(
        title=title,
        metric=scored[0][2].metric,
        rows=tuple(
            ScoreRow(
                run=run.name,
                number=number,
                representation=NAMES.get(score.representation, score.representation),
                score=score,
                details=", ".join(
                    f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}"
                    for name, value in score.details.items()
                    if isinstance(value, str | int | float)
                ),
            )
            for number, run, score in sorted(scored, key=place)
        ),
    )


Scored = tuple[Run, Score]


def _against_controls(run: Run) -> list[tuple[Scored, Scored]]:
    scores = _scores(run)
    return [((run, score), (run, control)) for score, control in product(scores, scores) if _controls(control, score)]


def _controls(control: Score, score: Score) -> bool:
    if (control.variant, control.data, control.metric) != (score.variant, score.data, score.metric):
        return False
    if control.protocol == score.protocol:
        return control.representation in _CONTROLS.get(score.representation, ())
    return control.protocol == _FROM_SCRATCH.get(score.protocol)


def _between(run: Run, base: Run) -> list[tuple[Scored, Scored]]:
    return [
        ((run, score), (base, other))
        for score, other in product(_scores(run), _scores(base))
        if score.representation in _CONTROLS
        and (score.title, score.representation, score.metric, score.data, score.n_train)
        == (other.title, other.representation, other.metric, other.data, other.n_train)
    ]


def _difference(first: Scored, second: Scored) -> DifferenceRow | None:
    """None where the two are not of the same images."""
    (run, score), (other, control) = first, second
    if run.evaluation is None or other.evaluation is None:
        return None
    answers, right = run.evaluation.answers(score)
    others, others_right = other.evaluation.answers(control)
    if len(right) != len(others_right) or (right != others_right).any():
        return None
    names = [NAMES.get(one.representation, one.representation) for one in (score, control)]
    if control.protocol != score.protocol:
        names[1] = control.title
    return DifferenceRow(
        protocol=score.title,
        first=f"{run.name}: {names[0]}",
        second=names[1] if run is other else f"{other.name}: {names[1]}",
        difference=paired_difference(answers, others, right, score.metric),
    )
