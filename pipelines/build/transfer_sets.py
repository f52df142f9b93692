"""The sets to which SimCLR's features were transferred (Chen et al. 2020, appendix B.8.3), as torchvision has them.

Splits and metrics are those of the paper, which follows Kornblith et al. 2019 (arXiv 1805.08974, table 1); numbers of
images are that table's. Where a set has a validation split, it chose the settings and was then learned from, too: here
it is part of train.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TransferSet:
    """One of them."""

    title: str
    torchvision: str
    """Its class in torchvision.datasets."""
    unpacked: tuple[str, ...]
    """What must lie in the root that torchvision unpacks to; the first names the directory of the set."""
    train: tuple[str, ...] = ()
    """Splits of that class which become train, where it reads them; test becomes test."""
    metric: Literal["top1", "mean_per_class"] = "top1"
    classes: int
    images: tuple[int, int]
    """Official numbers of train and test."""
    is_served: bool = True
    """Whether torchvision can fetch it."""


TRANSFER_SETS = {
    "food101": TransferSet(
        title="Food-101",
        torchvision="Food101",
        unpacked=("food-101/images", "food-101/meta"),
        train=("train",),
        classes=101,
        images=(75_750, 25_250),
    ),
    "cifar10": TransferSet(
        title="CIFAR-10",
        torchvision="CIFAR10",
        unpacked=("cifar-10-batches-py",),
        classes=10,
        images=(50_000, 10_000),
    ),
    "cifar100": TransferSet(
        title="CIFAR-100",
        torchvision="CIFAR100",
        unpacked=("cifar-100-python",),
        classes=100,
        images=(50_000, 10_000),
    ),
    "sun397": TransferSet(
        title="SUN397",
        torchvision="SUN397",
        unpacked=("SUN397",),
        classes=397,
        images=(19_850, 19_850),
    ),
    "cars": TransferSet(
        title="Stanford Cars",
        torchvision="StanfordCars",
        unpacked=(
            "stanford_cars/devkit",
            "stanford_cars/cars_train",
            "stanford_cars/cars_test",
            "stanford_cars/cars_test_annos_withlabels.mat",
        ),
        train=("train",),
        classes=196,
        images=(8_144, 8_041),
        is_served=False,
    ),
    "aircraft": TransferSet(
        title="FGVC Aircraft",
        torchvision="FGVCAircraft",
        unpacked=("fgvc-aircraft-2013b/data",),
        train=("trainval",),
        metric="mean_per_class",
        classes=100,
        images=(6_667, 3_333),
    ),
    "dtd": TransferSet(
        title="Describable Textures",
        torchvision="DTD",
        unpacked=("dtd/dtd/images", "dtd/dtd/labels"),
        train=("train", "val"),
        classes=47,
        images=(3_760, 1_880),
    ),
    "pets": TransferSet(
        title="Oxford-IIIT Pets",
        torchvision="OxfordIIITPet",
        unpacked=("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),
        train=("trainval",),
        metric="mean_per_class",
        classes=37,
        images=(3_680, 3_669),
    ),
    "caltech101": TransferSet(
        title="Caltech-101",
        torchvision="Caltech101",
        unpacked=("caltech101/101_ObjectCategories",),
        metric="mean_per_class",
        classes=102,
        images=(3_060, 6_084),
    ),
    "flowers102": TransferSet(
        title="Oxford 102 Flowers",
        torchvision="Flowers102",
        unpacked=("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        train=("train", "val"),
        metric="mean_per_class",
        classes=102,
        images=(2_040, 6_149),
    ),
}

LEFT_OUT = {
    "voc2007": "an image of VOC 2007 has several labels, here one, and its metric is an average precision",
    "birdsnap": "torchvision does not know Birdsnap, a list of addresses of which many are gone; give the images that "
    "you have to `folder`",
}
"""What else the paper transferred to, and why it is not here."""
