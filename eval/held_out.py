"""The part of train on which a protocol's settings are chosen, so that test is met once."""

import numpy as np
import torch
from torch import Tensor

from pipelines.hashing import hash64

_SHARE = 0.1
_HELD_OUT = 100  # first word of the hash; see pipelines/order.py


def held_out_rows(labels: Tensor, classes: int) -> Tensor:
    """Choose a tenth of each class, rounded up but leaving one to learn from: (N,) labels -> (N,) bool.

    By hash, so that the choice depends on nothing but the labels.

    Args:
        labels: of all of train, on the host.
        classes: their number.
    """
    label = labels.numpy()
    order = np.lexsort((hash64(_HELD_OUT, np.arange(len(label))), label))  # class by class, shuffled within
    count = np.bincount(label, minlength=classes)
    place_in_class = np.arange(len(label)) - np.repeat(np.cumsum(count) - count, count)
    wanted = np.minimum(np.ceil(_SHARE * count), count - 1)
    held_out = np.empty(len(label), dtype=bool)
    held_out[order] = place_in_class < wanted[label[order]]
    return torch.from_numpy(held_out)
