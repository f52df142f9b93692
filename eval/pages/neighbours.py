"""Some test images with the train images whose features are nearest, by cosine. Which test images, a hash decides."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.errors import EvaluationError
from eval.pages.config import ReportConfig
from eval.pages.figures import image_uri
from eval.pages.kept_features import Ids, KeptFeatures, open_features, scored_data
from eval.pages.run_files import Run
from eval.pages.stored_images import open_scored_split, read_views
from pipelines.errors import DataError
from pipelines.hashing import hash64

Similarities = npt.NDArray[np.float64]
_IMAGE_CHOICE, _CLASS_CHOICE = 1002, 1003
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A train image."""

    image: str
    """Data URI."""
    name: str
    """Of its class."""
    similarity: float
    """Cosine, in [-1, 1]."""
    is_right: bool
    """Whether its class is that of the test image."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A test image, and its nearest train images, the nearest first."""

    image: str
    name: str
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, kw_only=True)
class NeighbourSheet:
    """Of one run."""

    run: str
    queries: tuple[Query, ...]
    side: int
    """Of an image in pixels, before it was shrunk."""
    share_right: float
    """Of the neighbours shown."""


def neighbour_sheets(runs: Sequence[Run], config: ReportConfig) -> tuple[list[NeighbourSheet], list[str]]:
    """Of each run whose features and data are there, and a line for each other."""
    found, missing = [], []
    for run in runs:
        try:
            found.append(_sheet(run, config))
        except (EvaluationError, DataError) as error:
            missing.append(f"{run.name}: {error}")
    return found, missing


def choose_queries(labels: Ids, count: int) -> Ids:
    """Rows spread over the classes: one of each, then a second of each, and so on; which, a hash of the row decides.

    Args:
        labels: (N,) of the split.
        count: of rows wanted; fewer if there are not as many.

    Returns:
        Rows, by class.
    """
    by_hash = np.argsort(hash64(_IMAGE_CHOICE, np.arange(len(labels))), kind="stable")
    met: Counter[int] = Counter()
    places = []
    for row in by_hash.tolist():
        label = int(labels[row])
        places.append((met[label], int(hash64(_CLASS_CHOICE, label)), row))
        met[label] += 1
    chosen = np.array([row for _, _, row in sorted(places)[:count]], dtype=np.int64)
    return chosen[np.lexsort((chosen, labels[chosen]))]


def nearest(queries: npt.NDArray[np.float32], features: KeptFeatures, count: int) -> tuple[Ids, Similarities]:
    """The rows of highest cosine similarity: (Q, count) each, the nearest first, of equally near ones the first stored.

    Args:
        queries: (Q, D).
        features: (N, D), read in parts.
        count: at most N.
    """
    directions = _directions(queries)
    best = np.full((len(queries), count), -np.inf)
    rows = np.full((len(queries), count), -1, dtype=np.int64)
    for first in range(0, len(features), _ROWS_AT_ONCE):
        part = _directions(features.rows(first, min(first + _ROWS_AT_ONCE, len(features))))
        all_similarities = np.concatenate([best, directions @ part.T], axis=1)
        here = np.broadcast_to(np.arange(first, first + len(part)), (len(queries), len(part)))
        all_rows = np.concatenate([rows, here], axis=1)
        order = np.argsort(-all_similarities, axis=1, kind="stable")[:, :count]
        best = np.take_along_axis(all_similarities, order, axis=1)
        rows = np.take_along_axis(all_rows, order, axis=1)
    return rows, best


def _directions(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    directions: npt.NDArray[np.float64] = features / np.maximum(lengths, 1e-12)
    return directions


def _sheet(run: Run, config: ReportConfig) -> NeighbourSheet:
    scored = scored_data(run)
    test = open_features(run, scored.split, len(scored.classes))
    train = open_features(run, "train", len(scored.classes))
    chosen = choose_queries(test.labels, config.images)
    queries = np.concatenate([test.rows(row, row + 1) for row in chosen.tolist()])
    rows, similarities = nearest(queries, train, min(config.neighbours, len(train)))
    data = run.config.data
    directory = config.data.dir or data.dir
    test_split = open_scored_split(directory, scored.split, scored.fingerprint)
    train_split = open_scored_split(directory, "train", scored.fingerprint)
    if len(test_split) != len(test) or len(train_split) != len(train):
        raise EvaluationError(f"{directory}: has other numbers of images than features were kept of")
    size = run.config.views.size
    test_images = read_views(test_split, chosen, data, size)
    train_images = read_views(train_split, rows.ravel(), data, size).reshape(*rows.shape, size, size, 3)
    right = train.labels[rows] == test.labels[chosen][:, None]
    return NeighbourSheet(
        run=run.name,
        queries=tuple(
            Query(
                image=image_uri(test_images[i]),
                name=scored.classes[test.labels[query]],
                neighbours=tuple(
                    Neighbour(
                        image=image_uri(train_images[i, j]),
                        name=scored.classes[train.labels[row]],
                        similarity=float(similarities[i, j]),
                        is_right=bool(right[i, j]),
                    )
                    for j, row in enumerate(rows[i].tolist())
                ),
            )
            for i, query in enumerate(chosen.tolist())
        ),
        side=size,
        share_right=float(right.mean()),
    )
