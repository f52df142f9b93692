"""Every metric, defined once: `diptych_<subsystem>_<quantity>_<unit>`, base units, few labels.

The loop, the loader and the model only return numbers; the entry point hands them to `TrainingMetrics`.
"""

import platform
import time
from importlib.metadata import version

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram, Info, Summary

from ops.exporter import start_exporter
from pipelines.prefetch import Occupancy
from train.checkpoint_writer import Written
from train.config import PretrainConfig
from train.loop import StepRecord

# The text format's _created series double the page, and no query of ours reads them.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped

IMAGES = Counter("diptych_train_images_total", "Source images consumed by this rank; its two views count once.")
STEPS = Counter("diptych_train_steps_total", "Updates made by this process.")
STEP_SECONDS = Histogram(
    "diptych_train_step_seconds",
    "Host seconds from the end of one step to the end of the next.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60),
)
DATA_WAIT = Counter("diptych_train_data_wait_seconds_total", "Seconds in which the device had no batch to work on.")
STAGE_SECONDS = Summary(
    "diptych_train_stage_seconds",
    "Seconds of each stage of a step (data is waiting for it), sampled at logging steps.",
    ["stage"],
)
LOSS = Gauge("diptych_train_loss_nats", "NT-Xent of the last logged global batch, unscaled.")
LEARNING_RATE = Gauge("diptych_train_learning_rate", "Learning rate of the last logged step.")
GRADIENT_NORM = Gauge("diptych_train_gradient_norm", "Of the last logged update, over all parameters and ranks.")
TRUST_RATIO = Gauge("diptych_train_largest_trust_ratio", "LARS's largest trust ratio of the last logged update.")
OVERFLOWS = Gauge("diptych_train_skipped_steps", "Updates that fp16's overflow prevented, since the process began.")
PROBE_TOP1 = Gauge(
    "diptych_probe_top1_ratio", "Share of views since the last log line that the online probe named before learning."
)
HEALTH = Gauge(
    "diptych_health_value",
    "Of the last logged global batch: alignment, uniformity, effective rank and others.",
    ["name"],
)
EPOCH = Gauge("diptych_train_epoch", "Passes over the data so far.")
LAST_STEP = Gauge("diptych_train_last_step_timestamp_seconds", "Unix time at which this rank's last step ended.")
LAST_CHECKPOINT = Gauge("diptych_checkpoint_last_timestamp_seconds", "Unix time of the last complete checkpoint.")
CHECKPOINT_STEP = Gauge("diptych_checkpoint_last_step", "Updates made when the last complete checkpoint was taken.")
CHECKPOINT_SECONDS = Summary("diptych_checkpoint_write_seconds", "Seconds of the background thread per checkpoint.")
CHECKPOINT_BYTES = Gauge("diptych_checkpoint_size_bytes", "Tensors of the last complete checkpoint.")
CHECKPOINT_FAILURES = Counter(
    "diptych_checkpoint_failures_total", "Checkpoints that could not be written; training went on."
)
CHECKPOINT_FAILING = Gauge("diptych_checkpoint_failing", "1 while the last attempt at a checkpoint has failed, else 0.")
LEFT_OUT = Gauge(
    "diptych_train_left_out_batches", "Batches of the run that non_finite.policy = skip or rollback left out."
)
SKIPPED = Counter("diptych_data_samples_skipped_total", "Damaged samples that were replaced by others.", ["reason"])
LOADER_SECONDS = Counter(
    "diptych_data_stage_seconds_total",
    "Seconds of the loader's thread: read, decode, gather (from decoded canvases), draw, blocked (the queue was full).",
    ["stage"],
)
LOADER_IMAGES = Counter("diptych_data_images_total", "Images made ready, by where their canvas came from.", ["source"])
BYTES_READ = Counter("diptych_data_read_bytes_total", "Bytes of encoded images read from shards.")
BYTES_FETCHED = Counter("diptych_data_fetched_bytes_total", "Bytes that this rank received from remote data sets.")
QUEUE = Gauge("diptych_data_queue_batches", "Batches that were ready when the last step ended.")
RUN = Info("diptych_run", "What runs here.")


class TrainingMetrics:
    """Feeds this process's metrics, and serves them if a port was asked for."""

    def __init__(self, config: PretrainConfig, *, rank: int, local_rank: int) -> None:
        self._blocked_seconds = 0.0
        RUN.info(
            {
                "run_dir": config.run_dir,
                "rank": str(rank),
                "encoder": config.encoder.name,
                "global_batch": str(config.global_batch),
                "precision": config.precision,
                "config_sha256": config.sha256()[:12],
                "version": version("diptych"),
                "host": platform.node(),
            }
        )
        if config.metrics.port:
            start_exporter(config.metrics.address, config.metrics.port + local_rank)

    def record(self, step: StepRecord, loader: Occupancy) -> None:
        """Count one step, and what the loader did for it."""
        IMAGES.inc(step.images)
        STEPS.inc()
        STEP_SECONDS.observe(step.step_seconds)
        DATA_WAIT.inc(step.data_wait_seconds)
        LAST_STEP.set_to_current_time()
        for reason in step.skip_reasons:
            SKIPPED.labels(reason).inc()
        for stage in ("read", "decode", "gather", "draw"):
            LOADER_SECONDS.labels(stage).inc(getattr(step.work, f"{stage}_seconds"))
        if loader.blocked_seconds < self._blocked_seconds:  # a new loader: the run went back
            self._blocked_seconds = 0.0
        LOADER_SECONDS.labels("blocked").inc(loader.blocked_seconds - self._blocked_seconds)
        self._blocked_seconds = loader.blocked_seconds
        LOADER_IMAGES.labels("decoded").inc(step.work.images_decoded)
        LOADER_IMAGES.labels("cached").inc(step.work.images_cached)
        BYTES_READ.inc(step.work.bytes_read)
        BYTES_FETCHED.inc(step.work.bytes_fetched)
        QUEUE.set(loader.ready)
        if step.log is not None:
            LOSS.set(step.log.loss)
            LEARNING_RATE.set(step.log.learning_rate)
            EPOCH.set(step.log.epoch)
            GRADIENT_NORM.set(step.log.gradient_norm)
            OVERFLOWS.set(step.log.skipped_steps)
            LEFT_OUT.set(step.log.left_out_batches)
            if step.log.largest_trust_ratio is not None:
                TRUST_RATIO.set(step.log.largest_trust_ratio)
            if step.log.probe_top1 is not None:
                PROBE_TOP1.set(step.log.probe_top1)
            for name, value in step.log.health.items():
                HEALTH.labels(name).set(value)
            for stage, seconds in step.log.stage_seconds.items():
                STAGE_SECONDS.labels(stage).observe(seconds)

    def checkpoint_attempted(self, attempt: Written) -> None:
        """Note what became of a checkpoint."""
        CHECKPOINT_FAILING.set(attempt.error is not None)
        if attempt.error is not None:
            CHECKPOINT_FAILURES.inc()
            return
        LAST_CHECKPOINT.set(time.time())
        CHECKPOINT_STEP.set(attempt.step)
        CHECKPOINT_SECONDS.observe(attempt.seconds)
        CHECKPOINT_BYTES.set(attempt.bytes)
