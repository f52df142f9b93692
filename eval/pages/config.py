"""Settings of a report. Nothing here imports torch or matplotlib."""

from dataclasses import dataclass, field

from jsonargparse.typing import PositiveInt

from eval.config import EvaluationDataConfig

MOST_RUNS = 8
"""Colours and dashes that can be told apart in one set of axes."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """One HTML file about a run, or several side by side: what they are, their curves, scores, errors and pictures."""

    runs: tuple[str, ...] = ()
    """Run directories of train/pretrain.py; the flag may be left out."""
    output: str = "report.html"
    """The file to write. It needs no other file, no script and no network."""
    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    points: PositiveInt = 2000
    """Test images in the pictures of the feature space, evenly spread over the split."""
    neighbours: PositiveInt = 8
    """Nearest train images shown beside a test image."""
    images: PositiveInt = 10
    """Test images with neighbours, and at most so many train images with views."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("runs: none named; give at least one run directory of train/pretrain.py")
        if len(self.runs) > MOST_RUNS:
            raise ValueError(
                f"runs: {len(self.runs)} named; at most {MOST_RUNS} can be told apart, make several reports"
            )
        if len(set(self.runs)) < len(self.runs):
            raise ValueError("runs: one is named twice")
