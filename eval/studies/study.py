"""What a study is: cells that differ in one or two things, trained and scored alike."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from eval.errors import EvaluationError
from eval.studies.config import words_of


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting of a study, trained once with each seed."""

    name: str
    """Of its directory."""
    place: tuple[str, ...]
    """Its values on the study's axes."""
    flags: tuple[str, ...] = ()
    """For train/pretrain.py, after those that all cells share."""
    length: float = 1.0
    """Share of the study's epochs, in (0, 1]."""
    work: float = 1.0
    """What an image costs relative to the study's other cells, roughly."""
    published: dict[str, float] = field(default_factory=dict)
    """The paper's numbers of this setting in per cent, by column."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Cells that differ in one or two things."""

    name: str
    title: str
    source: str
    """Figure or table of the paper."""
    axes: tuple[str, ...]
    figure: Literal["matrix", "bars", "points"]
    cells: tuple[Cell, ...]
    finding: str
    """What the paper says of it."""
    departures: tuple[str, ...]
    """Where these cells are not the paper's."""
    columns: tuple[str, ...] = ()
    """Scores beside those of the protocols: contrastive, supervised."""

    def cell(self, name: str) -> Cell:
        """By its name."""
        return next(cell for cell in self.cells if cell.name == name)


def numbers_of(option: str, text: str) -> tuple[Fraction, ...]:
    """Positive numbers between commas, such as 1/4 or 0.25.

    Raises:
        EvaluationError: something else stands there, or nothing.
    """
    try:
        numbers = tuple(Fraction(word) for word in words_of(text))
    except (ValueError, ZeroDivisionError):
        numbers = ()
    if not numbers or min(numbers) <= 0:
        raise EvaluationError(f"{option} = {text}: positive numbers, separated by commas, are wanted")
    return numbers
