"""Images of a data set for a page, read as evaluation reads them: through the loader and the fixed central view."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from eval.errors import EvaluationError
from pipelines.config import DataConfig
from pipelines.manifest import SplitIndex, open_split

Pixels = npt.NDArray[np.uint8]


def open_scored_split(directory: str, split: str, fingerprint: str) -> SplitIndex:
    """The split that scores and features are of.

    Raises:
        EvaluationError: the directory holds other data.
        DataError: it does not hold what its manifest says, or nothing.
    """
    opened = open_split(directory, split)
    if opened.manifest.fingerprint != fingerprint:
        raise EvaluationError(f"{directory}: not the data that was evaluated; name it with --data.dir")
    return opened


def read_views(split: SplitIndex, ids: npt.NDArray[np.int64], data: DataConfig, size: int) -> Pixels:
    """Fixed views of some samples: (N, size, size, 3), in the order asked for.

    Raises:
        DataError: one of them is damaged, or cannot be reached.
    """
    import torch

    from pipelines.augment import EvalView
    from pipelines.evaluation_loader import evaluation_batches

    asked = replace(split, samples=split.samples[ids])
    view, found = EvalView(size), []
    with closing(evaluation_batches(asked, replace(data, cache="none"), 64, torch.device("cpu"))) as batches:
        for images in batches:
            views = view(images.canvas, images.height, images.width)
            found.append((views * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    pixels: Pixels = np.concatenate(found)
    return pixels
