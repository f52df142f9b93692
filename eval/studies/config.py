"""Settings of a study. Nothing here imports torch."""

import re
from dataclasses import dataclass, field, fields
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from eval.config import EvaluationDataConfig

STUDIES = (
    "augmentations",
    "colour",
    "batch_epochs",
    "lr_scaling",
    "temperature",
    "loss",
    "head",
    "width_depth",
    "faster",
)
PROTOCOLS = ("knn", "linear", "linear_sgd")
"""Of eval.evaluate: those that score a frozen encoder."""
_OPTIONS = {
    "operations": ("augmentations",),
    "branches": ("augmentations",),
    "strengths": ("colour",),
    "supervised_epochs": ("colour",),
    "batches": ("batch_epochs", "lr_scaling"),
    "lengths": ("batch_epochs",),
    "temperatures": ("temperature",),
    "dims": ("head",),
    "depths": ("width_depth",),
    "widths": ("width_depth",),
}
_SECONDS = {"h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A study of Chen et al. 2020, what each of its cells may cost, and which of them this command is to run."""

    study: str = ""
    """augmentations, colour, batch_epochs, lr_scaling, temperature, loss, head, width_depth or faster. The flag may be
    left out."""
    base: str = ""
    """Configuration file of train/pretrain.py that all cells start from; `--config` on the command line."""
    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    output: str = ""
    """Directory of the cells and the results; runs/studies/STUDY if empty."""
    epochs: NonNegativeInt = 0
    """Of every cell; 0: as many as the configuration file says. Warm-up is a tenth of them."""
    budget: str = ""
    """Wall time of all cells and seeds on this machine, such as 90s, 60m or 1h30m: speed is measured, epochs follow."""
    images: NonNegativeInt = 0
    """Train on so many images, equally many of each class; 0: all."""
    seeds: str = "0,1"
    """Separated by commas; each cell is trained once with each."""
    protocols: str = "knn,linear"
    """By which cells are scored, separated by commas: knn, linear, linear_sgd."""
    jobs: PositiveInt = 1
    """Cells at once on this machine."""
    cpu_threads: NonNegativeInt = 0
    """Of each job on the CPU; 0 shares the cores among the jobs."""
    list: bool = False
    """Print the runs with their numbers, and do nothing."""
    cell: str = ""
    """Run only this one, by its number in the list; array: the number of this task of a Slurm array or indexed
    Kubernetes job."""
    collect: bool = False
    """Write the results of what is there, and train nothing."""
    operations: str = "crop,cutout,colour,sobel,noise,blur,rotation"
    """Of augmentations: which are studied, alone and in pairs."""
    branches: Literal["one", "both"] = "one"
    """Of augmentations: one leaves the second view the whole image, as in the paper."""
    strengths: str = "1/8,1/4,1/2,1,1+blur"
    """Of colour."""
    supervised_epochs: NonNegativeInt = 0
    """Of colour: how long the supervised network is trained; 0: as long as SimCLR."""
    batches: str = ""
    """Of batch_epochs and lr_scaling: global batches; a quarter of the configuration's to twice it if empty."""
    lengths: str = "1/4,1/2,1"
    """Of batch_epochs: shares of the epochs."""
    temperatures: str = "0.05,0.1,0.5,1"
    """Of temperature, for cosine similarities; dot products have the paper's 10 and 100."""
    dims: str = "32,64,128,256,512,1024,2048"
    """Of head: lengths of z."""
    depths: str = "18,34,50"
    """Of width_depth: ResNets."""
    widths: str = "0.5,1,2"
    """Of width_depth: multiples of the configuration's."""

    def __post_init__(self) -> None:
        if self.study not in STUDIES:
            raise ValueError(f"study = {self.study or '(none)'}: not one of {', '.join(STUDIES)}")
        if not self.base:
            raise ValueError("config: none named; give a configuration file of train/pretrain.py")
        if not self.data.dir:
            raise ValueError("data.dir: no data set named; build one with `python -m pipelines.build_shards`")
        for option in fields(self):
            of = _OPTIONS.get(option.name)
            if of and self.study not in of and getattr(self, option.name) != option.default:
                raise ValueError(f"{option.name}: of {' and '.join(of)}; {self.study} has no such choice")
        if not self.seed_numbers:
            raise ValueError(f"seeds = {self.seeds}: whole numbers from 0, separated by commas, are wanted")
        unknown = [name for name in self.protocol_names if name not in PROTOCOLS]
        if unknown or not self.protocol_names:
            raise ValueError(f"protocols = {self.protocols}: {', '.join(unknown) or 'none'} is not in {PROTOCOLS}")
        if self.epochs and self.budget:
            raise ValueError("epochs and budget: the budget says how many epochs; give one of them")
        if self.budget and not seconds_of(self.budget):
            raise ValueError(f"budget = {self.budget}: hours, minutes and seconds are wanted, such as 60m or 1h30m")
        if self.cell and self.cell != "array" and not self.cell.isdecimal():
            raise ValueError(f"cell = {self.cell}: a number of --list, or array, is wanted")
        if self.cell and self.budget:
            raise ValueError("cell and budget: a budget shares one machine among all cells; give --epochs")
        if bool(self.cell) + self.list + self.collect > 1:
            raise ValueError("list, cell and collect: give one of them")

    @property
    def directory(self) -> str:
        """Where everything goes."""
        return self.output or f"runs/studies/{self.study}"

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """Each once; empty if what was given is not a list of them."""
        words = [word.strip() for word in self.seeds.split(",")]
        return tuple(dict.fromkeys(map(int, words))) if all(word.isdecimal() for word in words) else ()

    @property
    def protocol_names(self) -> tuple[str, ...]:
        """Each once, in the order asked for."""
        return words_of(self.protocols)


def seconds_of(text: str) -> int:
    """Of a length of time such as 90s, 60m or 1h30m; 0 if it is none."""
    parts = re.findall(r"(\d+)([hms])", text)
    whole = "".join(number + unit for number, unit in parts) == text
    return sum(int(number) * _SECONDS[unit] for number, unit in parts) if whole else 0


def words_of(text: str) -> tuple[str, ...]:
    """What stands between commas, each once."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
