"""The few labels that fine-tuning learns from: a share of every class, or a published list; and a split of them alone.

    class a   5 3 8 | 1 0           every class shuffled by hash, one image of each class in turn:
    class b   7 2   |               5 7 4 3 2 9 8 6 1 0
    class c   4 9 6 |               a share is a prefix, so a smaller one lies within every larger one

`pipelines.tools.subset` writes such a part as a data set of its own; here it lives as long as the process.
"""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.errors import DataError
from pipelines.hashing import hash64
from pipelines.manifest import UNLABELLED, Split, SplitIndex
from pipelines.tools.listed_samples import listed_rows

Rows = npt.NDArray[np.int64]

# First words of the hashes, unlike those of pipelines/order.py and pipelines/draws.py.
_IMAGE, _CLASS = 201, 202


def balanced_subset(split: SplitIndex, share: float, seed: int) -> Rows:
    """Choose a share of the images, equally many of every class but for one (Chen et al. 2020, section 4.3).

    1 % of ImageNet's 1,281,167 images are 12,812: 12 of each class and a 13th of 812 of them. A class with fewer
    images than its part gives them all, and the others make up for it. The choice is a pure function of the labels, in
    their order, the share and the seed.

    Args:
        split: to choose from; every sample labelled.
        share: of its images, in (0, 1]; at least one of each class is taken all the same.
        seed: of the choice, in [0, 2^64). Of one seed, a smaller share lies within every larger one.

    Returns:
        (n,) rows, rising.

    Raises:
        DataError: the share is out of range, a sample has no label, or a class no image.
    """
    if not 0 < share <= 1:
        raise DataError(f"share of labels {share}: not in (0, 1]; 1 % is 0.01")
    label, classes = _labels(split), split.manifest.classes
    count = np.bincount(label, minlength=len(classes))
    if not count.all():
        empty = classes[int(count.argmin())]
        raise DataError(
            f"{split.location}: class '{empty}' has no image in split {split.name}, so no subset has some of every "
            "class; build the data set without that class"
        )
    by_class = np.lexsort((hash64(_IMAGE, seed, np.arange(len(label))), label))
    place_in_class = np.arange(len(label)) - np.repeat(np.cumsum(count) - count, count)
    turn_of_class = hash64(_CLASS, seed, label[by_class])
    in_turn = by_class[np.lexsort((turn_of_class, place_in_class))]
    return np.sort(in_turn[: max(len(classes), round(share * len(label)))])


def listed_subset(split: SplitIndex, list_file: Path) -> Rows:
    """Rows of the images that a list names, as SimCLR's 1 % and 10 % of ImageNet do: one file name a line.

    Args:
        split: to choose from.
        list_file: text; a line is what `pipelines.tools.listed_samples` takes: an image's original name, such as
            n01440764_10026.JPEG, or its key.

    Returns:
        (n,) rows, rising.

    Raises:
        DataError: the list cannot be read or is empty, a line fits no sample or several, or one is unlabelled.
    """
    _labels(split)
    try:
        return listed_rows(split, list_file)
    except OSError as error:
        raise DataError(f"{list_file}: {error.strerror}; name a text file with one file name a line") from None


def take(split: SplitIndex, rows: Rows) -> SplitIndex:
    """The same split with only some of its samples, whose ids count anew from 0.

    Shards without one are left out. The manifest tells of the part, so that its fingerprint, under which canvases and
    damaged samples are kept, is not that of the whole but that of the same part written by `build_shards subset`.

    Args:
        split: the whole.
        rows: (n,) of its samples, n >= 1, rising.

    Raises:
        ValueError: rows do not rise; the order of an epoch counts samples through the shards.
    """
    if not len(rows) or (np.diff(rows) <= 0).any():
        raise ValueError(f"rows of split {split.name}: expected at least one, each above the last")
    samples = split.samples[rows]
    used, number, count = np.unique(samples["shard"], return_inverse=True, return_counts=True)
    samples["shard"] = number
    shards = tuple(
        replace(split.shards[old], samples=left) for old, left in zip(used.tolist(), count.tolist(), strict=True)
    )
    stored = io.BytesIO()
    np.save(stored, samples)
    part = Split(
        samples=len(samples),
        index_file=split.manifest.splits[split.name].index_file,
        index_sha256=hashlib.sha256(stored.getvalue()).hexdigest(),
        shards=shards,
    )
    manifest = replace(split.manifest, splits=split.manifest.splits | {split.name: part}, whole_shards=False)
    return replace(split, manifest=manifest, shards=shards, samples=samples)


def _labels(split: SplitIndex) -> npt.NDArray[np.int64]:
    """(N,) labels, of which none may be missing."""
    label = split.samples["label"].astype(np.int64)
    if not split.manifest.classes or (label == UNLABELLED).any():
        raise DataError(f"{split.location}: split {split.name} has samples without labels; build it with labels")
    return label
