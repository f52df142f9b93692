"""What probes are asked of a view: its class, or what was done to it (Chen et al. 2020, section 4.2, table 3).

Every image is given one of the answers by a hash of its place, equally many of each; what the answer says is then done
to its view. A representation from which the answer cannot be read has thrown away what was done.
"""

import kornia
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.filters import sobel_magnitude, standard_normal
from pipelines.hashing import hash64

Labels = npt.NDArray[np.int32]

ANSWERS = {
    "colour": ("colour", "gray"),
    "rotation": ("0", "90", "180", "270"),
    "corruption": ("original", "noisy"),
    "sobel": ("original", "filtered"),
}
"""By question; the first answer is that nothing was done."""
NOISE_STD = 0.2
"""Of the corrupted views. The paper adds Gaussian noise but does not say how much."""
_ANSWER, _KEY = 301, 302  # first words of the hashes, unlike those of pipelines/
_SPLITS = {"train": 0}  # any other is the one that is scored


def drawn_answers(question: str, images: int, split: str, seed: int) -> Labels:
    """(images,) numbers of answers: as equally many of each as can be, in an order by hash.

    Args:
        question: of `ANSWERS`.
        images: their number; the answer depends on an image's place among them.
        split: its name; train has other answers than test.
        seed: of the draw.
    """
    number = list(ANSWERS).index(question)
    order = np.argsort(hash64(_ANSWER, seed, _SPLITS.get(split, 1), number, np.arange(images)))
    answers = np.empty(images, dtype=np.int32)
    answers[order] = np.arange(images) % len(ANSWERS[question])
    return answers


def noise_keys(images: int, split: str, seed: int) -> npt.NDArray[np.int32]:
    """(images,) a number for each, from which its noise is made."""
    return (hash64(_KEY, seed, _SPLITS.get(split, 1), np.arange(images)) >> np.uint64(33)).astype(np.int32)


def changed(question: str, views: Tensor, answers: Tensor, keys: Tensor) -> Tensor:
    """Do to each view what its answer says.

    Args:
        question: of `ANSWERS`.
        views: (B, 3, s, s) float32 in [0, 1]; left as they are.
        answers: (B,) integers.
        keys: (B,) int32, of the noise.

    Returns:
        (B, 3, s, s) float32 in [0, 1].
    """
    if question == "colour":
        others = [kornia.color.rgb_to_grayscale(views).expand_as(views)]
    elif question == "rotation":
        others = [torch.rot90(views, turns, dims=(2, 3)) for turns in (1, 2, 3)]
    elif question == "corruption":
        noise = standard_normal(keys, views[0].numel()).view_as(views)
        others = [(views + NOISE_STD * noise).clamp_(0, 1)]
    else:
        others = [sobel_magnitude(views)]
    for answer, other in enumerate(others, start=1):
        views = torch.where((answers == answer)[:, None, None, None], other, views)
    return views
