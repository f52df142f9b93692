"""Every metric, defined once: `diptych_<subsystem>_<quantity>_<unit>`, base units, few labels.

docs/metrics.md is made from this file. Which run, rank and node a number belongs to is not said here but by the target
that Prometheus scrapes (ops/targets.py).
"""

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram, Info, Summary

Metric = Counter | Gauge | Histogram | Info | Summary

# The text format's _created series double the page, and no query of ours reads them.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped

RUN = Info("diptych_run", "What runs here.")
RUN_START = Gauge("diptych_run_start_timestamp_seconds", "Unix time at which this process began to train.")
RESTARTS = Gauge("diptych_run_restarts", "How often this run had been started before.")
RANKS = Gauge("diptych_run_ranks", "Processes of the run: its world size.")
TOTAL_STEPS = Gauge("diptych_run_total_steps", "Updates after which the run ends.")
RUN_STEP = Gauge("diptych_run_step", "Updates of the whole run so far.")

IMAGES = Counter("diptych_train_images_total", "Source images consumed by this rank; its two views count once.")
STEPS = Counter("diptych_train_steps_total", "Updates made by this process.")
STEP_SECONDS = Histogram(
    "diptych_train_step_seconds",
    "Host seconds from the end of one step to the end of the next.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60),
)
DATA_WAIT = Counter("diptych_train_data_wait_seconds_total", "Seconds in which the device had no batch to work on.")
STAGE_SECONDS = Counter(
    "diptych_train_stage_seconds_total",
    "Seconds of each stage of all steps; their sum is the steps' time. data: waiting for the batch. agree: waiting for "
    "the other ranks between two steps. augment, forward (with micro_batch without graph), gather (of projections), "
    "loss, backward. all_reduce: the part that backward did not hide. optimizer. evaluation: online probe, and at "
    "logging steps the health numbers. checkpoint: copying the state; it is written in the background. On CUDA the "
    "device's seconds, elsewhere the host's.",
    ["stage"],
)
LOSS = Gauge("diptych_train_loss_nats", "Loss of the last logged global batch, unscaled.")
LEARNING_RATE = Gauge("diptych_train_learning_rate", "Learning rate of the last logged step.")
TEMPERATURE = Gauge("diptych_train_temperature", "NT-Xent's tau.")
GRADIENT_NORM = Gauge("diptych_train_gradient_norm", "Of the last logged update, over all parameters and ranks.")
TRUST_RATIO = Gauge("diptych_train_largest_trust_ratio", "LARS's largest trust ratio of the last logged update.")
OVERFLOWS = Gauge("diptych_train_skipped_steps", "Updates that fp16's overflow prevented, since the process began.")
LEFT_OUT = Gauge(
    "diptych_train_left_out_batches", "Batches of the run that non_finite.policy = skip or rollback left out."
)
EPOCH = Gauge("diptych_train_epoch", "Passes over the data so far.")
LAST_STEP = Gauge("diptych_train_last_step_timestamp_seconds", "Unix time at which this rank's last step ended.")
PROBE_TOP1 = Gauge(
    "diptych_probe_top1_ratio", "Share of views since the last log line that the online probe named before learning."
)
HEALTH = Gauge(
    "diptych_health_value",
    "Of the last logged global batch: alignment, uniformity, positive_similarity, negative_similarity, "
    "contrastive_top1, effective_rank, feature_std, as docs/learning.md defines them.",
    ["name"],
)

LAST_CHECKPOINT = Gauge(
    "diptych_checkpoint_last_timestamp_seconds",
    "Unix time of the last complete checkpoint; before there is one, of the process's start.",
)
CHECKPOINT_STEP = Gauge("diptych_checkpoint_last_step", "Updates made when the last complete checkpoint was taken.")
CHECKPOINT_SECONDS = Summary("diptych_checkpoint_write_seconds", "Seconds of the background thread per checkpoint.")
CHECKPOINT_BYTES = Gauge("diptych_checkpoint_size_bytes", "Tensors of the last complete checkpoint.")
CHECKPOINT_FAILURES = Counter(
    "diptych_checkpoint_failures_total", "Checkpoints that could not be written; training went on."
)
CHECKPOINT_FAILING = Gauge("diptych_checkpoint_failing", "1 while the last attempt at a checkpoint has failed, else 0.")

SKIPPED = Counter("diptych_data_samples_skipped_total", "Damaged samples that were replaced by others.", ["reason"])
BUDGET = Gauge("diptych_data_bad_sample_budget_ratio", "Share of damaged samples above which the run stops.")
LOADER_SECONDS = Counter(
    "diptych_data_stage_seconds_total",
    "Seconds of the loader's thread: read, decode, gather (from decoded canvases), transfer (to the device), draw, "
    "blocked (the queue was full: the loader is ahead).",
    ["stage"],
)
LOADER_IMAGES = Counter(
    "diptych_data_images_total", "Images made ready, by where their canvas came from: decoded or cached.", ["source"]
)
BYTES_READ = Counter("diptych_data_read_bytes_total", "Bytes of encoded images read from shards.")
BYTES_FETCHED = Counter("diptych_data_fetched_bytes_total", "Bytes that this rank received from remote data sets.")
QUEUE = Gauge("diptych_data_queue_batches", "Batches that were ready when the last step ended.")
QUEUE_CAPACITY = Gauge("diptych_data_queue_capacity_batches", "Batches for which there is room.")

# Read when the page is asked for.
DISK_FREE = Gauge("diptych_disk_free_bytes", "Free on the file systems of run directory (run) and caches.", ["place"])
DISK_SIZE = Gauge("diptych_disk_size_bytes", "Size of these file systems.", ["place"])
DEVICE_MEMORY = Gauge(
    "diptych_device_memory_bytes",
    "Of the CUDA device: allocated by tensors, reserved by torch, peak of allocated, size. CUDA only.",
    ["kind"],
)
DEVICE_UTILIZATION = Gauge(
    "diptych_device_utilization_ratio", "Share of the last sample period in which a kernel ran. Needs nvidia-ml-py."
)
DEVICE_TEMPERATURE = Gauge("diptych_device_temperature_celsius", "Of the device's chip. Needs nvidia-ml-py.")
DEVICE_POWER = Gauge("diptych_device_power_watts", "That the device draws. Needs nvidia-ml-py.")


def defined() -> list[Metric]:
    """All of the above, in order."""
    return [value for value in globals().values() if isinstance(value, Metric)]
