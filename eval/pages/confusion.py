"""Which classes are taken for which, by the best protocol on the frozen encoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.errors import EvaluationError
from eval.pages.evaluation_files import Labels
from eval.pages.run_files import Run
from eval.results import Score

Counts = npt.NDArray[np.int64]
MOST_CLASSES = 20
"""Of a matrix that can be read; of more, the most confused pairs are listed."""
MOST_PAIRS = 25
_EXTREMES = 10


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A class that is taken for another."""

    right: str
    answer: str
    count: int
    share: float
    """Of the images of the right class."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """The errors of one run."""

    run: str
    score: Score
    classes: tuple[str, ...]
    counts: Counts
    """(C, C): row, the right class; column, the answer."""

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """(C, C), each row adding up to 1, or 0 for a class without images."""
        shares: npt.NDArray[np.float64] = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        return shares

    @property
    def fits_a_matrix(self) -> bool:
        """Whether all of it can be shown."""
        return len(self.classes) <= MOST_CLASSES

    @property
    def pairs(self) -> list[Pair]:
        """The most confused, by their share of the right class, then by count."""
        shares, counts = self.shares.copy(), self.counts
        np.fill_diagonal(shares, 0)
        order = np.lexsort((-counts.ravel(), -shares.ravel()))[:MOST_PAIRS]
        return [
            Pair(
                right=self.classes[row],
                answer=self.classes[column],
                count=int(counts[row, column]),
                share=float(shares[row, column]),
            )
            for row, column in zip(*(axis.tolist() for axis in np.unravel_index(order, shares.shape)), strict=True)
            if shares[row, column] > 0
        ]


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """How well one class is known."""

    name: str
    images: int
    shares: tuple[float, ...]
    """Of images answered rightly, by run."""


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """The classes of one data set."""

    runs: tuple[str, ...]
    rows: tuple[ClassRow, ...]
    left_out: int
    """Classes between the worst and the best known ones, where there are too many to show."""


def confusion_counts(right: Labels, answers: Labels, classes: int) -> Counts:
    """(C, C) images of each right class (row) that got each answer (column)."""
    cells: Counts = np.bincount(right.astype(np.int64) * classes + answers, minlength=classes**2)
    return cells.reshape(classes, classes)


def confusions(runs: Sequence[Run]) -> tuple[list[Confusion], list[str]]:
    """Of each run that has answers, and a line for each other."""
    found, missing = [], []
    for run in runs:
        try:
            found.append(_confusion(run))
        except EvaluationError as error:
            missing.append(f"{run.name}: {error}")
    return found, missing


def class_tables(confusions: Sequence[Confusion]) -> list[ClassTable]:
    """Runs of the same data set side by side; of many classes, the ones that the first run knows worst and best."""
    tables = []
    for key in dict.fromkeys(confusion.score.data for confusion in confusions):
        same = [confusion for confusion in confusions if confusion.score.data == key]
        images = same[0].counts.sum(axis=1)
        known = [confusion.shares.diagonal() for confusion in same]
        rows = [
            ClassRow(name=name, images=int(images[i]), shares=tuple(float(shares[i]) for shares in known))
            for i, name in enumerate(same[0].classes)
            if images[i]
        ]
        left_out = max(0, len(rows) - 2 * _EXTREMES) if len(rows) > MOST_CLASSES else 0
        if left_out:
            rows.sort(key=lambda row: row.shares[0])
            rows = rows[:_EXTREMES] + rows[-_EXTREMES:]
        tables.append(ClassTable(runs=tuple(one.run for one in same), rows=tuple(rows), left_out=left_out))
    return tables


def _confusion(run: Run) -> Confusion:
    evaluation, best = run.evaluated(), run.best_frozen()
    answers, right = evaluation.answers(best)
    classes = evaluation.data[best.data].classes
    counts = confusion_counts(right, answers, len(classes))
    return Confusion(run=run.name, score=best, classes=classes, counts=counts)
