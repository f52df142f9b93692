"""Samples that are damaged: logged once, remembered over restarts, limited by a budget; and what stands in for them."""

import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.encoded import DamagedSampleError
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex
from pipelines.order import GlobalBatch, IdArray
from pipelines.store import Store

_PASSING = ("unreadable",)
"""Reasons that may be gone when the run is started again, and are not remembered."""

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class DamagedSamples:
    """Reasons by sample id, as far as this rank knows."""

    split: SplitIndex
    budget: float
    """Share of the split's samples that may be damaged."""
    directory: Path | None
    """Where every rank keeps a file of what it found; None remembers nothing."""
    rank: int
    reasons: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.directory is None:
            return
        for path in sorted(self.directory.glob("rank*.jsonl")):
            for line in path.read_text().splitlines():
                self._recall(line)

    def add(self, error: DamagedSampleError, store: Store) -> None:
        """Note that a sample is damaged; what is known already is not logged again.

        Raises:
            DataError: more samples are damaged than the budget allows.
        """
        if error.sample_id in self.reasons:
            return
        self.reasons[error.sample_id] = error.reason
        key = store.key(error.sample_id)
        logger.warning("%s, %s, is damaged (%s) and was replaced", store.describe(error.sample_id), key, error.reason)
        if self.directory is not None and error.reason not in _PASSING:
            self._remember(self.directory, error, key)
        if len(self.reasons) > self.budget * len(self.split):
            counts = ", ".join(f"{count} {reason}" for reason, count in Counter(self.reasons.values()).most_common())
            raise DataError(
                f"{self.split.location}: {len(self.reasons)} of {len(self.split)} samples are damaged ({counts}), more "
                f"than data.bad_sample_budget = {self.budget} allows; run `python -m pipelines.build_shards verify "
                f"{self.split.location}` and build again"
            )

    def _remember(self, directory: Path, error: DamagedSampleError, key: str) -> None:
        shard = self.split.shards[int(self.split.samples[error.sample_id]["shard"])]
        entry = {
            "sample": error.sample_id,
            "reason": error.reason,
            "shard": shard.file,
            "key": key,
            "data": self.split.manifest.fingerprint,
        }
        path = directory / f"rank{self.rank:05d}.jsonl"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as fault:  # a full disk, say; the sample is found again after a restart
            logger.warning("%s cannot be written (%s)", path, fault.strerror)

    def _recall(self, line: str) -> None:
        try:
            entry = json.loads(line)
            if entry["data"] == self.split.manifest.fingerprint:
                self.reasons[int(entry["sample"])] = str(entry["reason"])
        except (ValueError, KeyError, TypeError):  # the last line of a run that was killed: its sample is found again
            return


@dataclass
class StandIns:
    """Replaces damaged samples of one rank's part of one global batch."""

    batch: GlobalBatch
    positions: IdArray
    """Within the global batch, that this rank computes."""
    damaged: DamagedSamples
    store: Store
    skipped: list[DamagedSampleError] = field(default_factory=list)
    """What was replaced, in the order in which it was found."""

    def __post_init__(self) -> None:
        self._attempts: dict[int, int] = {}

    def replace(self, place: int, error: DamagedSampleError) -> int:
        """Id of a sample, not known to be damaged, that takes a place of this rank's part.

        Raises:
            DataError: too many samples are damaged, or no candidate is left.
        """
        while True:
            self.damaged.add(error, self.store)
            self.skipped.append(error)
            attempt = self._attempts.get(place, 0)
            candidate = self.batch.replacement(int(self.positions[place]), attempt)
            if candidate is None:
                where = self.store.describe(error.sample_id)
                raise DataError(f"{where}: {error.reason}, and no sample is left to replace it")
            self._attempts[place] = attempt + 1
            if candidate not in self.damaged.reasons:
                return candidate
            error = DamagedSampleError(candidate, self.damaged.reasons[candidate])
