"""Settings of the protocols that train with labels by gradient descent. Nothing here imports torch."""

import math
from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt

Precision = Literal["auto", "bf16", "fp32"]
"""auto: bf16 on GPUs and on CPUs with instructions for it, fp32 on other CPUs."""
Fractions = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LinearSgdConfig:
    """A linear classifier on the frozen encoder, by SGD on augmented images (Chen et al. 2020, appendix B.6)."""

    epochs: PositiveInt = 90
    """90 in the paper."""
    batch: PositiveInt = 512
    """Images per update over all ranks; 4096 in the paper, for ImageNet."""
    base_lr: PositiveFloat = 0.1
    """Times batch / 256; then half a cosine to 0, without warm-up."""
    precision: Precision = "auto"
    """Of the encoder's forward; the classifier is float32."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The whole encoder goes on learning, from a part of the labels (appendix B.5; Chen et al. 2020b)."""

    fractions: str = "0.01,0.1"
    """Shares of the train images, separated by commas, each scored on its own: equally many of every class."""
    lists: str = ""
    """Text files separated by commas, one for each fraction: file names of the images to learn from, one a line, as
    published for ImageNet. Empty: the images are chosen by the run's seed."""
    recipe: Literal["v1", "v2"] = "v1"
    """v1: a classifier on h, SGD with Nesterov momentum. v2: the head's first layer stays below the classifier, LARS
    (Chen et al. 2020b, arXiv 2006.10029, section 3); needs the run's checkpoint."""
    epochs: str = ""
    """One number for each fraction, separated by commas. Empty: 60 up to 1 % of the labels, 30 above, as in the
    paper."""
    batch: PositiveInt = 64
    """Images per update over all ranks, or all of the part if it has fewer. 4096 in the paper, for ImageNet."""
    base_lr: PositiveFloat | None = None
    """Of v1 times batch / 256, 0.05 if unset; of v2 times the root of batch, 0.005 if unset. No warm-up; half a cosine
    to 0."""
    precision: Precision = "auto"
    """Of the encoder; the classifier is float32."""

    def __post_init__(self) -> None:
        fractions = self.fraction_numbers
        if self.list_files and len(self.list_files) != len(fractions):
            raise ValueError(
                f"finetune.lists: {len(self.list_files)} files for {len(fractions)} fractions; name one for each"
            )
        _epochs_by_fraction("finetune", self.epochs, fractions)

    @property
    def fraction_numbers(self) -> Fractions:
        """Each once, in the order asked for."""
        return _fractions("finetune", self.fractions)

    @property
    def list_files(self) -> tuple[str, ...]:
        """By fraction; empty if there are none."""
        return _words(self.lists)

    def epochs_of(self, fraction: float) -> int:
        """What was asked for, or the paper's."""
        asked = _epochs_by_fraction("finetune", self.epochs, self.fraction_numbers)
        return asked.get(fraction, paper_epochs(fraction))


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """The same network from random weights, trained with labels: the baseline of the paper's tables.

    SGD with Nesterov momentum, as supervised ResNets are trained (Goyal et al. 2017, arXiv 1706.02677), and not the
    run's LARS, which is made for large batches and whose rates were chosen for another loss.
    """

    fractions: str = "1.0"
    """Shares of the train images, separated by commas, each scored on its own; the same images as finetune's."""
    lists: str = ""
    """As of finetune."""
    epochs: str = ""
    """One number for each fraction, separated by commas. Empty: of all labels, as many as the run was pretrained for;
    of fewer, as many as finetune."""
    augmentation: Literal["crop_flip", "run"] = "crop_flip"
    """crop_flip: random crops and flips. run: the views of pretraining, as in the paper's table 1."""
    batch: PositiveInt = 64
    """Images per update over all ranks, or all of the part if it has fewer."""
    base_lr: PositiveFloat = 0.4
    """Times batch / 256; half a cosine to 0. Goyal et al. have 0.1, for ImageNet. With 1 % of CIFAR-10's labels in
    batches of 64, 0.1 came to 32.8 % on test, 0.4 to 37.0 and 0.8 to 37.5."""
    warmup_share: NonNegativeFloat = 0.05
    """Part of all updates in which the rate rises from 0. Goyal et al.: 5 of 90 epochs."""
    weight_decay: NonNegativeFloat = 1e-4
    """L2 strength; biases and norms are exempt. Goyal et al.: 1e-4."""
    precision: Precision = "auto"
    """Of the encoder; the classifier is float32."""

    def __post_init__(self) -> None:
        fractions = self.fraction_numbers
        if self.list_files and len(self.list_files) != len(fractions):
            raise ValueError(
                f"supervised.lists: {len(self.list_files)} files for {len(fractions)} fractions; name one for each"
            )
        _epochs_by_fraction("supervised", self.epochs, fractions)
        if self.warmup_share > 1:
            raise ValueError(f"supervised.warmup_share = {self.warmup_share}: a part of all updates, at most 1")

    @property
    def fraction_numbers(self) -> Fractions:
        """Each once, in the order asked for."""
        return _fractions("supervised", self.fractions)

    @property
    def list_files(self) -> tuple[str, ...]:
        """By fraction; empty if there are none."""
        return _words(self.lists)

    def epochs_of(self, fraction: float, pretraining_epochs: int | None) -> int | None:
        """What was asked for, or the default; None where that is not known because the encoder has no run.

        Args:
            fraction: of the labels.
            pretraining_epochs: of the run; None for an encoder alone.
        """
        asked = _epochs_by_fraction("supervised", self.epochs, self.fraction_numbers)
        return asked.get(fraction, pretraining_epochs if fraction == 1 else paper_epochs(fraction))


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Other data sets: a linear classifier on the frozen features, and fine-tuning (Chen et al. 2020, appendix B.8)."""

    dirs: str = ""
    """Data set directories separated by commas, each with labels, a split train, and test or val."""
    finetune: bool = True
    """false: only the linear classifier, which takes seconds."""
    steps: PositiveInt = 2000
    """Updates of each fine-tuning; 20,000 in the paper. One for each pair of the grid, and a last one."""
    batch: PositiveInt = 256
    """Images per update over all ranks, or all of the part if it has fewer. 256 in the paper."""
    learning_rates: str = "0.01,0.1"
    """To choose from on a tenth of train that is held out. The paper: 7 from 0.0001 to 0.1, evenly on a log scale."""
    weight_decays: str = "0"
    """Likewise; divided by the learning rate, as in the paper: 0, and 7 from 1e-6 to 1e-3."""
    precision: Precision = "auto"
    """Of the encoder; the classifier is float32."""

    def __post_init__(self) -> None:
        rates, decays = self.learning_rate_numbers, self.weight_decay_numbers
        if not rates or not all(0 < rate < math.inf for rate in rates):
            raise ValueError(f"transfer.learning_rates = {self.learning_rates}: numbers above 0 are wanted")
        if not decays or not all(0 <= decay < math.inf for decay in decays):
            raise ValueError(f"transfer.weight_decays = {self.weight_decays}: numbers from 0 are wanted")

    @property
    def directories(self) -> tuple[str, ...]:
        """Each once, in the order asked for."""
        return _words(self.dirs)

    @property
    def learning_rate_numbers(self) -> tuple[float, ...]:
        """Each once, in the order asked for."""
        return _numbers("transfer.learning_rates", self.learning_rates)

    @property
    def weight_decay_numbers(self) -> tuple[float, ...]:
        """Each once, in the order asked for."""
        return _numbers("transfer.weight_decays", self.weight_decays)


def paper_epochs(fraction: float) -> int:
    """Of fine-tuning on a share of the labels (appendix B.5): 60 at 1 %, 30 at 10 %, and as many at 100 %."""
    return 60 if fraction <= 0.01 else 30


def _fractions(protocol: str, text: str) -> Fractions:
    fractions = _numbers(f"{protocol}.fractions", text)
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise ValueError(f"{protocol}.fractions = {text}: shares in (0, 1] are wanted, such as 0.01,0.1,1; 1 % is 0.01")
    return fractions


def _epochs_by_fraction(protocol: str, text: str, fractions: Fractions) -> dict[float, int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        return {}
    if not all(word.isdecimal() and int(word) for word in words) or len(words) != len(fractions):
        raise ValueError(
            f"{protocol}.epochs = {text}: a whole number from 1 for each of the fractions "
            f"{', '.join(f'{fraction:g}' for fraction in fractions)} is wanted, separated by commas"
        )
    return dict(zip(fractions, map(int, words), strict=True))


def _numbers(field: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(dict.fromkeys(float(word) for word in _words(text)))
    except ValueError:
        raise ValueError(f"{field} = {text}: numbers separated by commas are wanted") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
