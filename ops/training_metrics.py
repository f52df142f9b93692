"""Feeds this process's metrics from what the loop and the loader tell of each step."""

import platform
import time
from importlib.metadata import version

import torch
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from ops import metrics
from ops.exporter import start_exporter
from ops.metrics import Metric
from ops.readings import read_device, read_disks
from ops.targets import remove_target, write_target
from pipelines.prefetch import Occupancy
from train.checkpoint_writer import Written
from train.config import PretrainConfig
from train.loop import StepRecord
from train.ranks import Ranks

_FROM_THE_START = (
    metrics.RUN,
    metrics.RUN_START,
    metrics.RESTARTS,
    metrics.RANKS,
    metrics.TOTAL_STEPS,
    metrics.RUN_STEP,
    metrics.IMAGES,
    metrics.STEPS,
    metrics.STEP_SECONDS,
    metrics.DATA_WAIT,
    metrics.STAGE_SECONDS,
    metrics.TEMPERATURE,
    metrics.SKIPPED,
    metrics.BUDGET,
    metrics.LOADER_SECONDS,
    metrics.LOADER_IMAGES,
    metrics.BYTES_READ,
    metrics.BYTES_FETCHED,
    metrics.QUEUE,
    metrics.QUEUE_CAPACITY,
)
_FROM_THE_FIRST_LINE = (
    metrics.LOSS,
    metrics.LEARNING_RATE,
    metrics.GRADIENT_NORM,
    metrics.EPOCH,
    metrics.OVERFLOWS,
    metrics.LEFT_OUT,
    metrics.HEALTH,
)


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
        self._on_page: set[Metric] = set()
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
        self.page = CollectorRegistry()
        """What is served: metrics that have a value on this rank."""
        for collect in (ProcessCollector, PlatformCollector, GCCollector):
            collect(registry=self.page)
        self._add(*_FROM_THE_START, *read_disks(config), *read_device(device))
        if ranks.rank == 0:
            self._add(metrics.LAST_CHECKPOINT, metrics.CHECKPOINT_FAILURES, metrics.CHECKPOINT_FAILING)
        port = config.metrics.port + local_rank
        self._served = config.metrics.port > 0 and start_exporter(config.metrics, port, self.page)
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
        self._add(metrics.LAST_STEP)
        if step.log is not None:
            self._add(*_FROM_THE_FIRST_LINE)
            metrics.LOSS.set(step.log.loss)
            metrics.LEARNING_RATE.set(step.log.learning_rate)
            metrics.EPOCH.set(step.log.epoch)
            metrics.GRADIENT_NORM.set(step.log.gradient_norm)
            metrics.OVERFLOWS.set(step.log.skipped_steps)
            metrics.LEFT_OUT.set(step.log.left_out_batches)
            if step.log.largest_trust_ratio is not None:
                self._add(metrics.TRUST_RATIO)
                metrics.TRUST_RATIO.set(step.log.largest_trust_ratio)
            if step.log.probe_top1 is not None:
                self._add(metrics.PROBE_TOP1)
                metrics.PROBE_TOP1.set(step.log.probe_top1)
            for name, value in step.log.health.items():
                metrics.HEALTH.labels(name).set(value)

    def checkpoint_attempted(self, attempt: Written) -> None:
        """Note what became of a checkpoint."""
        metrics.CHECKPOINT_FAILING.set(attempt.error is not None)
        if attempt.error is not None:
            metrics.CHECKPOINT_FAILURES.inc()
            return
        self._add(metrics.CHECKPOINT_STEP, metrics.CHECKPOINT_SECONDS, metrics.CHECKPOINT_BYTES)
        metrics.LAST_CHECKPOINT.set(time.time())
        metrics.CHECKPOINT_STEP.set(attempt.step)
        metrics.CHECKPOINT_SECONDS.observe(attempt.seconds)
        metrics.CHECKPOINT_BYTES.set(attempt.bytes)

    def _add(self, *named: Metric) -> None:
        """To the page, from now on: a gauge that was never set would say 0 there."""
        for metric in named:
            if metric not in self._on_page:
                self.page.register(metric)
                self._on_page.add(metric)
