"""Saves a run: a copy of its state on the device, written by rank 0 in the background; and surely at the end."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from model.description import EncoderDescription
from model.encoder_file import save_encoder
from model.running_statistics import average_running_statistics
from pipelines.manifest import SplitIndex
from train.checkpoint import Checkpoint, optimizer_tensors, save_checkpoint
from train.checkpoint_files import CheckpointState
from train.checkpoint_writer import CheckpointWriter, Written, bytes_of, copied
from train.config import PretrainConfig
from train.errors import RunError
from train.ranks import OtherRankError, Ranks
from train.stop_request import StopRequest

if TYPE_CHECKING:
    from model.simclr import SimCLR
    from train.trainer import Trainer

logger = logging.getLogger(__name__)

_ATTEMPTS_WHEN_STOPPING = 3
_PAUSE_SECONDS = 1.0


@dataclass(kw_only=True)
class RunSaver:
    """Every rank holds the same state, or does after `begin`; rank 0 writes it."""

    split: SplitIndex
    trainer: "Trainer"
    model: "SimCLR"
    """The bare one, inside the trainer's."""
    ranks: Ranks
    change: int
    """Of CheckpointState."""
    told: Callable[[Written], None]
    """Called on rank 0 after each attempt."""
    saved_step: int = -1
    """Of which a checkpoint exists or is under way."""
    config: PretrainConfig = field(init=False)
    writer: CheckpointWriter = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.trainer.config
        self.writer = CheckpointWriter(device=self.trainer.accelerator.device, told=self.told)

    def begin(self, step: int) -> None:
        """Begin a checkpoint of this moment; on all ranks. Waits only for the one before."""
        self.saved_step = step
        if not self.config.global_batchnorm:
            average_running_statistics(self.model)
        if self.ranks.rank:
            return
        self.writer.finish()  # before there are copies of the next one
        checkpoint = snapshot(self.split, self.trainer, self.model, step, self.change)
        size = bytes_of(*checkpoint.tensors.values())
        self.writer.begin(step, size, lambda: self._write(checkpoint))

    @property
    def wants_retry(self) -> bool:
        """Rank 0 alone knows: the last checkpoint failed long enough ago."""
        return self.writer.wants_retry(self.config.checkpoint.retry_seconds)

    @property
    def gave_up(self) -> bool:
        """Rank 0 alone knows: too many attempts have failed."""
        return self.writer.failures >= int(self.config.checkpoint.max_failures)

    def given_up(self) -> RunError:
        """What all ranks then raise."""
        return OtherRankError(
            f"{self.writer.failures} attempts to write a checkpoint failed one after another (the last: "
            f"{self.writer.last_error}); make room or repair {self.config.run_dir}, and start the same command again"
        )

    def finish(self, step: int, stop: StopRequest, *, stopping: bool) -> bool:
        """Have a checkpoint of this moment on disk, with as many attempts as there is time for; on all ranks.

        Args:
            step: updates made; nothing is saved of a run that has not begun.
            stop: shortens the attempts when it is asked for.
            stopping: the run was asked to stop, and has some seconds left.

        Returns:
            Whether it is on disk; False only when stopping.

        Raises:
            OtherRankError: `checkpoint.max_failures` were reached at the end of the run.
        """
        if step == 0:
            return True
        while True:
            if self.saved_step != step:
                self.begin(step)
            self.writer.finish()
            failed, stopping = map(bool, self.ranks.most([self.writer.failures, stopping or stop.asked]))
            if not failed:
                return True
            (out_of_attempts,) = self.ranks.most(
                [self.writer.failures >= (_ATTEMPTS_WHEN_STOPPING if stopping else self.config.checkpoint.max_failures)]
            )
            if out_of_attempts and stopping:
                return False
            if out_of_attempts:
                raise self.given_up()
            self._pause(stop, stopping=stopping)
            self.saved_step = -1

    def _pause(self, stop: StopRequest, *, stopping: bool) -> None:
        end = time.monotonic() + (_PAUSE_SECONDS if stopping else self.config.checkpoint.retry_seconds)
        while time.monotonic() < end and not (stop.asked and not stopping):
            time.sleep(0.1)

    def _write(self, checkpoint: Checkpoint) -> None:
        save_checkpoint(Path(self.config.run_dir) / "checkpoints", checkpoint, self.config.checkpoint)
        export(checkpoint, self.config, self.split)


def snapshot(split: SplitIndex, trainer: "Trainer", model: "SimCLR", step: int, change: int) -> Checkpoint:
    """The state after so many updates, in tensors of its own: the next update does not change it."""
    scaler = trainer.accelerator.scaler
    state = CheckpointState(
        step=step,
        change=change,
        steps_per_epoch=trainer.steps_per_epoch,
        config=trainer.config.numeric(),
        data_fingerprint=split.manifest.fingerprint,
        scaler=scaler.state_dict() if scaler else {},
        skipped_updates=trainer.watch.skipped_updates,
        left_out=tuple(sorted(trainer.left_out)),
        probe_top1=trainer.last_probe_top1,
    )
    return Checkpoint(
        state=state,
        model=copied(model.state_dict()),
        optimizer=copied(optimizer_tensors(trainer.optimizer.optimizer, model)),
        probe=copied(trainer.probe.state()) if trainer.probe else {},
    )


def export(checkpoint: Checkpoint, config: PretrainConfig, split: SplitIndex) -> None:
    """Write the encoder of a checkpoint into RUN/encoder.

    Raises:
        OSError: it could not be written.
    """
    directory = Path(config.run_dir) / "encoder"
    description = EncoderDescription(
        encoder=config.encoder,
        image_size=config.views.size,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        data_name=split.manifest.name,
        data_fingerprint=split.manifest.fingerprint,
        config_sha256=config.sha256(),
        step=checkpoint.step,
        images_seen=checkpoint.step * config.global_batch,
    )
    prefix = "encoder."
    encoder = {name.removeprefix(prefix): t for name, t in checkpoint.model.items() if name.startswith(prefix)}
    save_encoder(directory, encoder, description)


def export_or_refuse(checkpoint: Checkpoint, config: PretrainConfig, split: SplitIndex) -> None:
    """The same where nothing else is left to do.

    Raises:
        RunError: it could not be written.
    """
    try:
        export(checkpoint, config, split)
    except OSError as error:
        raise RunError(
            f"{config.run_dir}/encoder: cannot be written ({error}); make room and start the same command again"
        ) from None
