"""The configuration of a run, composed of each folder's own. Nothing here imports torch."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from model.config import EncoderConfig, HeadConfig, LossConfig
from model.native_precision import native_precision
from pipelines.config import DataConfig, ViewsConfig


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The update rule (Chen et al. 2020, appendix B.1). Biases and BatchNorm get neither decay nor adaptation."""

    name: str = "lars"
    """lars: You et al. 2017 as in the reference code. sgd, adamw: torch's. timm:NAME: any of timm.optim's, by its name
    there, such as timm:lamb."""
    base_lr: PositiveFloat = 0.3
    """Learning rate at batch 256 (linear), or at batch 1 (sqrt, where the paper uses 0.075)."""
    lr_scaling: Literal["linear", "sqrt"] = "linear"
    """linear: base_lr * batch / 256. sqrt: base_lr * sqrt(batch), better for small batches and few epochs."""
    weight_decay: NonNegativeFloat = 1e-6
    """L2 strength: 1e-6 on ImageNet, 1e-4 on CIFAR-10."""
    momentum: ClosedUnitInterval = 0.9
    """Of lars, sgd and those of timm that have one."""
    trust_coefficient: PositiveFloat = 0.001
    """Of lars: a weight's norm times this, over its gradient's norm, multiplies its learning rate."""

    def __post_init__(self) -> None:
        if self.name not in ("lars", "sgd", "adamw") and not self.name.startswith("timm:"):
            raise ValueError(f"optimizer.name = {self.name}: not one of lars, sgd, adamw, timm:NAME")

    def peak_lr(self, global_batch: int) -> float:
        """Learning rate after warm-up."""
        factor = global_batch / 256 if self.lr_scaling == "linear" else math.sqrt(global_batch)
        return float(self.base_lr * factor)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Length of the run and shape of the learning rate: linear warm-up, then cosine to zero, without restarts."""

    epochs: PositiveInt = 100
    """Passes over the data, each without its incomplete last batch."""
    warmup_epochs: NonNegativeFloat = 10.0
    """10 in the paper."""

    def __post_init__(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs = {self.warmup_epochs}: at most schedule.epochs = {self.epochs} is allowed"
            )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often the run is saved, and what is kept. Any of it may change when a run is resumed."""

    every_steps: PositiveInt = 1000
    """Updates between checkpoints; the last update is always followed by one."""
    keep_last: PositiveInt = 2
    """Older checkpoints are removed after a new one is complete, unless one of the next two keeps them."""
    keep_every_epochs: NonNegativeInt = 0
    """Make a checkpoint at the end of every so many epochs, and keep it for good. 0: none."""
    keep_best: bool = False
    """Keep the checkpoint at which the online probe's last accuracy was the highest."""
    retry_seconds: NonNegativeFloat = 60.0
    """After a checkpoint could not be written, training goes on, and the next attempt is made so much later."""
    max_failures: PositiveInt = 10
    """So many attempts that fail one after another stop the run."""


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Prometheus exporter of each rank, and log lines. Any of it may change when a run is resumed."""

    port: NonNegativeInt = 9400
    """Of the first rank of a node; each further rank takes the next. 0 turns the exporter off."""
    address: str = "127.0.0.1"
    """Listening address; 0.0.0.0 for a Prometheus on another machine."""
    advertised_host: str = ""
    """Under which Prometheus reaches this node. Empty: the address, or where that stands for all, the node's name."""
    targets_dir: str = ""
    """Where each rank writes a file by which Prometheus finds it (file_sd). Empty: prometheus-targets/ beside run_dir,
    for all runs there."""
    tls_certificate: str = ""
    """PEM file, with its chain: serve by HTTPS only."""
    tls_key: str = ""
    """PEM file, of the certificate."""
    tls_client_ca: str = ""
    """PEM file: answer only clients with a certificate of this authority."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where rank 0 writes the log lines' numbers, too, through Accelerate; needs the extra `track`."""
    log_every_steps: PositiveInt = 10
    """Updates between lines of metrics.jsonl; only at these does the host wait for the device."""

    def __post_init__(self) -> None:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("metrics.tls_certificate and metrics.tls_key: name both or none")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("metrics.tls_client_ca: clients are asked over TLS only; name metrics.tls_certificate too")


@dataclass(frozen=True, kw_only=True)
class TimeoutsConfig:
    """When a run that does not move is ended, with a line that names the ranks missing. All of it may change."""

    startup_seconds: PositiveFloat = 1800.0
    """For all ranks to join, and for all that comes before the first step is done: compilation, cold shards."""
    step_seconds: PositiveFloat = 600.0
    """For a step, waiting for its batch included."""
    stack_seconds: PositiveFloat = 120.0
    """After which every thread's stack is written to RUN/stalled/, once a stall, while the run goes on."""


@dataclass(frozen=True, kw_only=True)
class NonFiniteConfig:
    """What is done when a loss or a gradient is not finite. Any of it may change when a run is resumed."""

    policy: Literal["stop", "skip", "rollback"] = "stop"
    """stop: end the run. skip: leave out that update, on the device. rollback: go back to the last checkpoint and
    leave out that batch. Step, data and learning rate go on either way. skip and rollback look at the gradient in each
    step."""
    limit: PositiveInt = 10
    """Most batches that skip and rollback leave out in a run; one more stops it."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """A linear classifier trained on h beside the encoder, where the data has labels. The encoder never feels it."""

    enabled: bool = True
    """Its accuracy, on views that it has not learnt from yet, is a metric."""
    lr: PositiveFloat = 0.001
    """Of Adam."""


@dataclass(frozen=True, kw_only=True)
class DDPConfig:
    """How gradients are reduced over ranks."""

    bucket_mb: PositiveInt = 25
    """Gradients travel in buckets of this size while backward goes on."""
    comm_hook: Literal["none", "fp16", "bf16"] = "none"
    """Type that gradients are rounded to on the way: half the traffic, but k ranks no longer equal one."""
    static_graph: bool = False
    """Tell DDP that every step uses the same parameters in the same order. Not with micro_batch."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A SimCLR pretraining run. Defaults are the paper's for ImageNet."""

    run_dir: str = "runs/pretrain"
    """Everything the run writes. The same command with the same directory resumes."""
    resume: str = "auto"
    """auto: from the newest checkpoint of run_dir. never: refuse a run_dir that has one. PATH: if run_dir has none,
    from the newest of another run's directory, or from one checkpoint, RUN/checkpoints/step-N."""
    allow_config_change: bool = False
    """Resume although global_batch, the data set or another field that shapes the result has changed; at the same
    epoch."""
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    ddp: DDPConfig = field(default_factory=DDPConfig)
    timeouts: TimeoutsConfig = field(default_factory=TimeoutsConfig)
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)
    global_batch: PositiveInt = 4096
    """Source images per update over all ranks; each gives two views."""
    micro_batch: NonNegativeInt = 0
    """Source images per forward pass on each rank; the update is still that of the global batch (Gao et al. 2021), for
    one more forward pass. 0: all at once. BatchNorm's statistics are then those of the micro-batch."""
    batchnorm: Literal["auto", "global", "local"] = "auto"
    """global: statistics over all ranks. local: of each rank. auto: global, but local with micro_batch."""
    seed: NonNegativeInt = 0
    """Of initial weights, order and views."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the encoder's and head's forward and backward; views and loss are float32. fp16 needs CUDA. auto: bf16 on GPUs
    and on CPUs with instructions for it, fp32 on other CPUs, which emulate bf16; the run keeps what it came to."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    cpu_threads: NonNegativeInt = 0
    """Of torch on each rank, on the CPU; 0 shares the cores among the node's ranks. The launcher's OMP_NUM_THREADS = 1
    is not obeyed."""
    channels_last: bool | None = None
    """Memory layout of the encoder: with bf16 2.4 times as fast for ResNets on CPUs. Unset, it is used with bf16 and
    fp16 but not with fp32, where torch's CPU BatchNorm loses three digits in it."""
    tf32: bool = False
    """Let CUDA round the inputs of fp32 matrix products and convolutions of encoder and head to 10 bits. Views and loss
    never do."""
    compile: bool = False
    """Compile the encoder with torch.compile; on the CPU this needs a C++ compiler."""
    checkpoint_activations: bool = False
    """Compute the encoder's activations again in backward instead of keeping them: less memory, one more forward."""
    cudnn_benchmark: bool = True
    """Let cuDNN time its convolutions at the first step and keep the fastest."""
    profile: str = ""
    """steps=A:B writes a Chrome trace of the updates A + 1 to B of this process, and a table of the costliest
    operators, to RUN/profile/. Empty: none."""
    nvtx: bool = False
    """Show the stages of a step to NVIDIA's profilers. CUDA only."""
    stop_after_steps: PositiveInt | None = None
    """Stop when the run has made this many updates in all; the schedule does not change."""

    def __post_init__(self) -> None:
        if self.precision == "auto":
            object.__setattr__(self, "precision", native_precision(self.device))
        if self.global_batch < 2:
            raise ValueError("global_batch = 1: one image has no negatives; use at least 2")
        if self.seed >= 2**64:
            raise ValueError(f"seed = {self.seed}: must be less than 2^64")
        if not self.resume:
            raise ValueError("resume: empty; use auto, never, or the path of a run or checkpoint")
        if self.views.crop == "source" and self.data.cache in ("memory", "disk"):
            raise ValueError(
                f"data.cache = {self.data.cache}: views.crop = source cuts other crops in every epoch, so that nothing "
                "can be kept; use data.cache = none, or views.crop = canvas"
            )
        self.profiled_steps()
        if self.micro_batch and self.ddp.static_graph:
            raise ValueError("ddp.static_graph = true: micro_batch leaves out reductions, which a static graph forbids")

    @property
    def global_batchnorm(self) -> bool:
        """Whether BatchNorm's statistics are those of all ranks."""
        return self.batchnorm == "global" or (self.batchnorm == "auto" and not self.micro_batch)

    @property
    def uses_channels_last(self) -> bool:
        """The memory layout that is meant."""
        return self.precision != "fp32" if self.channels_last is None else self.channels_last

    def profiled_steps(self) -> tuple[int, int] | None:
        """A and B of `profile`: the trace begins after A updates and ends after B."""
        if not self.profile:
            return None
        name, _, steps = self.profile.partition("=")
        first, _, last = steps.partition(":")
        if name != "steps" or not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
            raise ValueError(f"profile = {self.profile}: must be steps=A:B with A < B, such as steps=10:20")
        return int(first), int(last)

    def numeric(self) -> dict[str, Any]:
        """The fields that shape the result, flat: a resumed run must agree in them."""
        return {name: value for name, value in flatten(asdict(self)).items() if not name.startswith(_FREE)}

    def sha256(self) -> str:
        """Hash of the fields that shape the result."""
        return hash_of(self.numeric())


# Where things lie, how they are watched and how fast they run: free to change when a run is resumed. The data set
# itself is compared by its fingerprint.
_FREE = (
    "run_dir",
    "resume",
    "allow_config_change",
    "data.dir",
    "data.cache",  # and data.cache_dir
    "data.remote",
    "data.shard_cache_bytes",
    "data.fetch_threads",
    "data.decode_threads",
    "data.prefetch_batches",
    "data.bad_sample_budget",
    "checkpoint.",
    "metrics.",
    "probe.",
    "timeouts.",
    "non_finite.",
    "micro_batch",  # the same update without BatchNorm; with it, the run says what changes
    "ddp.bucket_mb",
    "ddp.static_graph",
    "compile",
    "checkpoint_activations",
    "cudnn_benchmark",
    "device",
    "cpu_threads",
    "profile",
    "nvtx",
    "stop_after_steps",
)


def hash_of(numeric: dict[str, Any]) -> str:
    """SHA-256 of what `PretrainConfig.numeric` gives."""
    return hashlib.sha256(json.dumps(numeric, sort_keys=True).encode()).hexdigest()


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def load_config(path: Path) -> PretrainConfig:
    """Read a resolved configuration, such as a run directory's config.yaml.

    Raises:
        RunError: it cannot be read or does not hold a valid configuration.
    """
    from train.arguments import parse

    return parse(PretrainConfig, ["--config", str(path)])
