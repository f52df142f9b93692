"""The ratios that our views are held to, and whether they hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ops.bench.views_contestants import (
    COMPILED,
    COMPILED_SAMPLE,
    DALI,
    KORNIA,
    KORNIA_COMPILED,
    LIGHTLY,
    OURS,
    SAMPLE,
    TORCHVISION,
)
from ops.bench.views_setting import Setting

_ORDER_RATIO = 0.75
"""What an order per view may leave of the speed."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Ratios to Kornia at one size of views."""

    eager: float
    compiled: float
    aim: float
    """Of both."""


WANTED = {32: Wanted(eager=2.6, compiled=3.7, aim=4.5), 224: Wanted(eager=2.0, compiled=2.2, aim=3.0)}
"""By size of the views."""


def wanted_ratios(setting: Setting, section: dict[str, Any]) -> list[dict[str, Any]]:
    """How the medians of a section stand to each other.

    Returns:
        section, name, ratio, wanted, aim and holds of each; ratio and holds are None where one was not measured, aim
        where there is no further one.
    """
    told = []
    for one, other, wanted, aim in _pairs(WANTED[setting.size]):
        rates = [section.get(name, {}).get("median") for name in (one, other)]
        ratio = rates[0] / rates[1] if all(rates) else None
        told.append(
            {
                "section": setting.title,
                "name": f"{one} / {other}",
                "ratio": ratio,
                "wanted": wanted,
                "aim": aim,
                "holds": None if ratio is None else ratio >= wanted,
            }
        )
    return told


def wanted_lines(told: list[dict[str, Any]]) -> str:
    """A line for each."""
    return "\n".join(
        f"{entry['section'].partition(':')[0]:<8}{entry['name']:<62}"
        f"{'-' if entry['ratio'] is None else format(entry['ratio'], '.2f'):>7}"
        f"{'>= ' + format(entry['wanted'], 'g'):>9}{_VERDICTS[entry['holds']]:>14}"
        f"{'' if entry['aim'] is None else '  (aim: ' + format(entry['aim'], 'g') + ')'}"
        for entry in told
    )


_VERDICTS = {True: "holds", False: "misses", None: "not measured"}


def _pairs(wanted: Wanted) -> Iterator[tuple[str, str, float, float | None]]:
    yield OURS, KORNIA, wanted.eager, wanted.aim
    yield COMPILED, KORNIA, wanted.compiled, wanted.aim
    yield COMPILED, KORNIA_COMPILED, 1.0, None
    yield SAMPLE, OURS, _ORDER_RATIO, None
    yield COMPILED_SAMPLE, COMPILED, _ORDER_RATIO, None
    for peer in (KORNIA, KORNIA_COMPILED, TORCHVISION, LIGHTLY, DALI):
        yield SAMPLE, peer, 1.0, None
