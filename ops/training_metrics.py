"""Feeds this process's metrics from what the loop and the loader tell of each step."""

import platform
import time
from importlib.metadata import version

import torch

from ops import metrics
from ops.exporter import start_exporter
from ops.readings import read_device, read_disks
from ops.targets import remove_target, write_target
from pipelines.prefetch import Occupancy
from train.checkpoint_writer import Written
from train.config import PretrainConfig
from train.loop import StepRecord
from train.ranks import Ranks


class TrainingMetrics:
    """Of one rank; serves them, and lets Prometheus find them, if a port was asked for."""

    def __init__(
        self,
        config: PretrainConfig,
        ranks: Ranks,
        *,
        local_rank: int,
        device: torch.device,
        last_step: int,
        starts: int,
    ) -> None:
        """Begin to serve.

        Args:
            config: of the run.
            ranks: this one among them.
            local_rank: number of this rank on its node.
            device: that it computes on.
            last_step: after which the run ends.
            starts: of this run before this one.
        """
        self._config, self._ranks = config, ranks
        self._blocked_seconds = 0.0
        metrics.RUN.info(
            {
                "run_dir": config.run_dir,
                "encoder": config.encoder.name,
                "global_batch": str(config.global_batch),
                "precision": config.precision,
                "config_sha256": config.sha256()[:12],
                "version": version("diptych"),
                "torch_version": torch.__version__,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "world_size": str(ranks.world_size),
                "host": platform.node(),
            }
        )
        now = time.time()
        metrics.RUN_START.set(now)
        metrics.RESTARTS.set(starts)
        metrics.RANKS.set(ranks.world_size)
        metrics.TOTAL_STEPS.set(last_step)
        metrics.TEMPERATURE.set(config.loss.temperature)
        metrics.BUDGET.set(config.data.bad_sample_budget)
        metrics.QUEUE_CAPACITY.set(config.data.prefetch_batches)
        if ranks.rank == 0:
            metrics.LAST_CHECKPOINT.set(now)
        read_disks(config)
        read_device(device)
        port = config.metrics.port + local_rank
        self._served = config.metrics.port > 0 and start_exporter(config.metrics, port)
        if self._served:
            write_target(config, ranks, port)

    def retire(self) -> None:
        """The run ends in an orderly way: Prometheus is to forget this rank.

        Otherwise its target stays, and Prometheus tells of a rank that does not answer.
        """
        if self._served:
            remove_target(self._config, self._ranks.rank)

    def record(self, step: StepRecord, loader: Occupancy) -> None:
        """Count one step, and what the loader did for it."""
        metrics.IMAGES.inc(step.images)
        metrics.STEPS.inc()
        metrics.STEP_SECONDS.observe(step.step_seconds)
        metrics.DATA_WAIT.inc(step.stage_seconds.get("data", 0.0))
        for stage, seconds in step.stage_seconds.items():
            metrics.STAGE_SECONDS.labels(stage).inc(seconds)
        metrics.RUN_STEP.set(step.step)
        metrics.LAST_STEP.set_to_current_time()
        for reason in step.skip_reasons:
            metrics.SKIPPED.labels(reason).inc()
        for stage in ("read", "decode", "gather", "transfer", "draw"):
            metrics.LOADER_SECONDS.labels(stage).inc(getattr(step.work, f"{stage}_seconds"))
        if loader.blocked_seconds < self._blocked_seconds:  # a new loader: the run went back
            self._blocked_seconds = 0.0
        metrics.LOADER_SECONDS.labels("blocked").inc(loader.blocked_seconds - self._blocked_seconds)
        self._blocked_seconds = loader.blocked_seconds
        metrics.LOADER_IMAGES.labels("decoded").inc(step.work.images_decoded)
        metrics.LOADER_IMAGES.labels("cached").inc(step.work.images_cached)
        metrics.BYTES_READ.inc(step.work.bytes_read)
        metrics.BYTES_FETCHED.inc(step.work.bytes_fetched)
        metrics.QUEUE.set(loader.ready)
        if step.log is not None:
            metrics.LOSS.set(step.log.loss)
            metrics.LEARNING_RATE.set(step.log.learning_rate)
            metrics.EPOCH.set(step.log.epoch)
            metrics.GRADIENT_NORM.set(step.log.gradient_norm)
            metrics.OVERFLOWS.set(step.log.skipped_steps)
            metrics.LEFT_OUT.set(step.log.left_out_batches)
            if step.log.largest_trust_ratio is not None:
                metrics.TRUST_RATIO.set(step.log.largest_trust_ratio)
            if step.log.probe_top1 is not None:
                metrics.PROBE_TOP1.set(step.log.probe_top1)
            for name, value in step.log.health.items():
                metrics.HEALTH.labels(name).set(value)

    def checkpoint_attempted(self, attempt: Written) -> None:
        """Note what became of a checkpoint."""
        metrics.CHECKPOINT_FAILING.set(attempt.error is not None)
        if attempt.error is not None:
            metrics.CHECKPOINT_FAILURES.inc()
            return
        metrics.LAST_CHECKPOINT.set(time.time())
        metrics.CHECKPOINT_STEP.set(attempt.step)
        metrics.CHECKPOINT_SECONDS.observe(attempt.seconds)
        metrics.CHECKPOINT_BYTES.set(attempt.bytes)
