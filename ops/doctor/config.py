"""Settings of the doctor: those of the run that it looks at, and a few of its own."""

from dataclasses import dataclass

from jsonargparse.typing import PositiveFloat

from train.config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(PretrainConfig):
    """The run that is looked at, and how. Exit status: 0 fine; 1 another rank is gone; 2 bad input; 3 --preflight found what would stop the run; 4 training waits for data, and --fail_if_starved was given."""  # noqa: E501  # help shows the first line alone

    seconds: PositiveFloat = 30.0
    """Of training with the real loader, warm-up excluded. Each stage by itself gets a tenth."""
    preflight: bool = False
    """Measure nothing; check data, disks, ports, versions and world, a line each."""
    fail_if_starved: bool = False
    """Exit with 4 where training waits for data for 5 % of the time or more."""
    json: bool = False
    """Print one JSON object instead of text."""
