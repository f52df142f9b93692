"""Between two steps: all ranks agree whether there is a next one, and whether to save first."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipelines.errors import DataError
from pipelines.loader import Batch
from pipelines.prefetch import Prefetch
from train.non_finite import refuse_to_save
from train.ranks import OtherRankError, Ranks
from train.run_saver import RunSaver
from train.stop_request import StopRequest
from train.watchdog import Watchdog


@dataclass(kw_only=True)
class Boundary:
    """Hands out a batch once every rank has one, so that all ranks stop, save and fail after the same step.

    A few numbers of each rank go round between the hosts in each step, before the device gets its work.
    """

    ranks: Ranks
    stop: StopRequest
    watchdog: Watchdog
    saver: RunSaver
    step: int
    """Updates made."""
    stopping: bool = field(default=False, init=False)
    """All ranks have agreed to stop early."""
    failure: Exception | None = field(default=None, init=False)
    """Why this rank, or another one, cannot go on."""

    def batches(self, ahead: Prefetch[Batch]) -> Iterator[Batch]:
        """Yield this rank's batches; ends for all ranks at once.

        That is when there are no more of them, when some rank was asked to stop (`stopping`), or when one's loader
        failed or too many checkpoints could not be written (`failure`).

        Raises:
            NonFiniteError, RollBack: before a checkpoint that was due again.
        """
        while True:
            batch = None
            try:
                batch = ahead.take(give_up=lambda: self.stop.asked)
            except DataError as error:
                self.failure = error
            if self._agree_to_end() or batch is None:
                return
            yield batch
            self.step = batch.step + 1
            self.watchdog.at_step(self.step)

    def _agree_to_end(self) -> bool:
        self.saver.trainer.clock.enter("agree")
        self.saver.writer.collect()
        failed_rank = -1 if self.failure is None else self.ranks.rank
        stopping, failed_rank, gave_up, retry = self.ranks.most(
            [self.stop.asked, failed_rank, self.saver.gave_up, self.saver.wants_retry]
        )
        self.stopping = bool(stopping)
        if gave_up:
            self.failure = self.saver.given_up()
        elif failed_rank >= 0 and self.failure is None:
            self.failure = OtherRankError(f"rank {failed_rank} cannot go on; its own message says why")
        if self.stopping or self.failure is not None:
            return True
        if retry:
            self.saver.trainer.clock.enter("checkpoint")
            refuse_to_save(self.saver.trainer, self.step)
            self.saver.begin(self.step)
        return False
