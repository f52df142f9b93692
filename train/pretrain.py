"""Pretrain an encoder with SimCLR.

    accelerate launch train/pretrain.py --config train/configs/cifar10_cpu.yaml --data.dir DIR --run_dir runs/NAME

The same command again resumes. `torchrun` and plain `python` work too. `--help` lists every field.
Exit status: 0 done; 2 refused, or given up for the reason told; 70 stalled; 75 asked to stop, and can be resumed.
"""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ops.exporter import refuse_bad_certificates
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex, open_split
from train.arguments import parse
from train.config import PretrainConfig
from train.distributed import environment_rank, environment_world_size, fail, share_cores
from train.errors import RunError
from train.resume_check import check_run_directory
from train.stop_request import EX_TEMPFAIL, StopRequest, stop_with_launcher
from train.trackers import refuse_missing_trackers

if TYPE_CHECKING:
    from train.ranks import Ranks
    from train.watchdog import Watchdog


def main() -> None:
    """Refuse what is wrong before torch is imported, then train."""
    share_cores()
    stop_with_launcher()
    stop = StopRequest()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        config = parse(PretrainConfig, sys.argv[1:], prog="pretrain")
        refuse_bad_certificates(config.metrics)
        refuse_missing_trackers(config)
        split = open_data(config, environment_world_size())
        check_run_directory(config)
    except (RunError, DataError) as error:
        fail("pretrain", error, show=environment_rank() == 0)
    from model.errors import ModelError
    from train.non_finite import NonFiniteError
    from train.ranks import OtherRankError, join_ranks, leave_ranks
    from train.watchdog import Watchdog

    try:
        ranks = join_ranks(config)
        with Watchdog(ranks, config.timeouts, Path(config.run_dir)) as watchdog:
            try:
                stopped = pretrain(config, split, stop, ranks, watchdog)
            except RuntimeError as error:
                if ranks.world_size == 1:
                    raise
                missing = watchdog.missing()
                if not missing:
                    raise
                reason = " ".join(str(error).split())[:200]
                print(f"pretrain: error: rank {ranks.rank} cannot go on: {missing} ({reason})", file=sys.stderr)
                sys.exit(1)
        leave_ranks()
    except (RunError, DataError, ModelError) as error:
        together = isinstance(error, NonFiniteError | OtherRankError)  # raised by all ranks alike
        fail("pretrain", error, show=environment_rank() == 0 or not together)
    sys.exit(EX_TEMPFAIL if stopped else 0)


def open_data(config: PretrainConfig, world_size: int) -> SplitIndex:
    """Open the train split and check that it can be divided as asked.

    Raises:
        DataError: the directory does not hold what its manifest says, or holds too little.
        RunError: the global batch cannot be shared equally.
    """
    if not config.data.dir:
        raise RunError("data.dir: no data set named; build one with `python -m pipelines.build_shards`")
    if config.global_batch % world_size:
        below = config.global_batch // world_size * world_size
        near = " or ".join(str(batch) for batch in (below, below + world_size) if batch)
        raise RunError(f"global_batch = {config.global_batch}: not divisible by the {world_size} ranks; use {near}")
    split = open_split(config.data.dir, "train")
    if len(split) < config.global_batch:
        raise DataError(
            f"{split.location}: {len(split)} train samples, less than global_batch = {config.global_batch}; "
            "lower global_batch"
        )
    return split


def pretrain(
    config: PretrainConfig, split: SplitIndex, stop: StopRequest, ranks: "Ranks", watchdog: "Watchdog"
) -> bool:
    """Run on this rank, from the newest checkpoint or the start, to the end of the schedule or `stop_after_steps`.

    Returns:
        Whether the run was asked to stop before that; what it had learnt is saved.
    """
    from ops.targets import remove_target
    from ops.training_metrics import TrainingMetrics
    from train.build import build
    from train.distributed import make_accelerator
    from train.log import RunLog
    from train.resume import find_checkpoint, restore
    from train.run import Run, learn
    from train.run_directory import announce, log_path, note_start
    from train.run_lock import RunLock
    from train.run_saver import RunSaver, export_or_refuse
    from train.same_everywhere import refuse_differing_ranks
    from train.trackers import finish_trackers, start_trackers

    checkpoints = Path(config.run_dir) / "checkpoints"
    accelerator = make_accelerator(config)
    refuse_differing_ranks(config, split, ranks)
    trainer, model = build(config, split, accelerator)
    with RunLock(Path(config.run_dir)) as lock:
        ranks.from_rank_0(lock.take)
        checkpoint = find_checkpoint(config, split, ranks)
        if checkpoint:
            restore(checkpoint, trainer, model)
        first_step, change = (checkpoint.step, checkpoint.state.change) if checkpoint else (0, 0)
        last_step = min(trainer.total_steps, config.stop_after_steps or trainer.total_steps)
        ranks.from_rank_0(lambda: announce(config, split, trainer, first_step, last_step))
        if checkpoint and first_step >= last_step:
            # Should the run have died just before it.
            ranks.from_rank_0(lambda: export_or_refuse(checkpoint, config, split))
            remove_target(config, ranks.rank)
            return False
        metrics = TrainingMetrics(
            config,
            ranks,
            local_rank=accelerator.local_process_index,
            device=accelerator.device,
            last_step=last_step,
            starts=ranks.from_rank_0(lambda: note_start(config, first_step, ranks.world_size)),
        )
        start_trackers(accelerator, config)
        told = metrics.checkpoint_attempted
        run = Run(
            trainer=trainer,
            saver=RunSaver(split=split, trainer=trainer, model=model, ranks=ranks, change=change, told=told),
            stop=stop,
            watchdog=watchdog,
            record=metrics.record,
            log=RunLog(log_path(config, change), first_step, last_step) if ranks.rank == 0 else None,
        )
        if checkpoint and ranks.from_rank_0((checkpoints / checkpoint.state.name).is_dir):
            run.saver.saved_step = first_step
        stopped = learn(run, first_step, last_step)
        finish_trackers(accelerator)
        metrics.retire()
        return stopped


if __name__ == "__main__":
    main()
