"""Settings of an evaluation. Nothing here imports torch."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from eval.probes_config import ProbesConfig
from eval.training_config import FinetuneConfig, LinearSgdConfig, SupervisedConfig, TransferConfig

PROTOCOLS = ("knn", "linear", "linear_sgd", "finetune", "supervised", "transfer", "probes")


@dataclass(frozen=True, kw_only=True)
class EvaluationDataConfig:
    """Which data, where it is not the run's own."""

    dir: str = ""
    """Data set directory with the splits train and test (or val); by default the one that the run was trained on."""


@dataclass(frozen=True, kw_only=True)
class KnnConfig:
    """The nearest-neighbour vote (Wu et al. 2018, arXiv 1805.01978, section 3.4)."""

    k: tuple[PositiveInt, ...] = (1, 5, 10, 20, 50, 100, 200)
    """Numbers of neighbours to try on a tenth of train that is held out; all train images where there are fewer."""
    temperature: tuple[PositiveFloat, ...] = (0.02, 0.05, 0.07, 0.1, 0.2, 0.5)
    """Temperatures to try: a neighbour's vote is exp(cosine similarity / temperature)."""

    def __post_init__(self) -> None:
        for name in ("k", "temperature"):
            if not getattr(self, name):
                raise ValueError(f"knn.{name}: empty; give at least one value, such as [200]")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluation of an encoder: probes learn from the split train and are scored on test, or else val."""

    run_dir: str = ""
    """Run directory of train/pretrain.py, or the directory of an encoder; the flag may be left out. Results go to its
    eval/results.json."""
    protocols: str = "knn,linear"
    """Which, separated by commas: knn, linear, linear_sgd, finetune, supervised, transfer, probes."""
    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    controls: Literal["all", "none"] = "all"
    """all: the protocols on frozen features also score an untrained encoder and the pixels themselves."""
    knn: KnnConfig = field(default_factory=KnnConfig)
    linear_sgd: LinearSgdConfig = field(default_factory=LinearSgdConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    supervised: SupervisedConfig = field(default_factory=SupervisedConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    batch: PositiveInt = 128
    """Images per forward pass; scores do not depend on it. Larger ones are slower on CPUs, where glibc then returns
    every activation to the system: 2,090 images a second at 128, 1,360 at 256, 910 at 512 (quarter-width ResNet-18,
    32 px, float32, two cores of an EPYC, best of 5 after a warm-up)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    cpu_threads: NonNegativeInt = 0
    """Of each rank on the CPU; 0 shares the cores among the ranks of a node. Where other programs run beside it, fewer
    are faster: an epoch of the supervised network (1,280 images, half-width ResNet-18) on two cores that others kept
    busy took 37 and 42 s with two threads, 4 and 3 with one."""

    def __post_init__(self) -> None:
        if not self.run_dir:
            raise ValueError("run_dir: none named; give the run directory of train/pretrain.py or that of an encoder")
        unknown = [name for name in self.protocol_names if name not in PROTOCOLS]
        if unknown or not self.protocol_names:
            raise ValueError(
                f"protocols = {self.protocols}: {', '.join(unknown) or 'none'} is not among {', '.join(PROTOCOLS)}"
            )

        if "transfer" in self.protocol_names and not self.transfer.directories:
            raise ValueError("transfer.dirs: empty; name one or more data set directories, separated by commas")

    @property
    def protocol_names(self) -> tuple[str, ...]:
        """Each once, in the order asked for."""
        return tuple(dict.fromkeys(name.strip() for name in self.protocols.split(",") if name.strip()))
