"""What one check of the preflight found."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line."""

    level: Literal["OK", "WARN", "FAIL"]
    """WARN: the run can begin, but not all that was asked for will be had."""
    subject: str
    """data, run, disk, port, version, compiler, device or world."""
    what: str
    """What is there, or what is wrong and what to do."""

    def __str__(self) -> str:
        return f"{self.level:<5}{self.subject:<10}{self.what}"


def fine(subject: str, what: str) -> Finding:
    """As it should be."""
    return Finding(level="OK", subject=subject, what=what)


def doubtful(subject: str, what: str) -> Finding:
    """Nothing that stops a run."""
    return Finding(level="WARN", subject=subject, what=what)


def wrong(subject: str, what: str) -> Finding:
    """The run would not begin, or not go on as asked."""
    return Finding(level="FAIL", subject=subject, what=what)
