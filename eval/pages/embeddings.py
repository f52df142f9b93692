"""The feature space seen from outside: the test images by the two strongest principal components and by t-SNE.

features (N, D) -> covariance -> components -> spectrum
                                     |-> 2 of them, of some images
                                     |-> 50 of them, of the same -> t-SNE (van der Maaten & Hinton 2008)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.errors import EvaluationError
from eval.pages.figures import (
    COLOURS,
    MARKERS,
    Picture,
    dash_pattern,
    inline_svg,
    label_points,
    new_axes,
    page_style,
    plain_logarithmic,
)
from eval.pages.kept_features import Ids, KeptFeatures, open_features, scored_data
from eval.pages.run_files import Run
from pipelines.hashing import hash64

Floats = npt.NDArray[np.float64]
_BEFORE_TSNE = 50
_PERPLEXITY = 30.0
_FEWEST_POINTS, _FEW_POINTS = 10, 100
"""Fewer give no t-SNE; so few, the exact one, which is faster there than that by Barnes and Hut."""
_ROWS_AT_ONCE = 16_384
_CLASS_CHOICE = 1001
_REST = "#8a8a90"


@dataclass(frozen=True, kw_only=True)
class Components:
    """Principal components of a split's features."""

    mean: Floats
    """(D,)."""
    axes: Floats
    """(D, D), a column each, the strongest first."""
    shares: Floats
    """(D,) of the variance, adding up to 1."""

    def needed_for(self, share: float) -> int:
        """How many components hold this share of the variance."""
        return int(np.searchsorted(np.cumsum(self.shares), share - 1e-12)) + 1


@dataclass(frozen=True, kw_only=True)
class ClassMark:
    """How a class is drawn."""

    name: str
    colour: str
    character: str


@dataclass(frozen=True, kw_only=True)
class FeatureSpace:
    """Pictures of one run's features."""

    run: str
    number: int
    pca: Picture
    tsne: Picture | None
    components: Components
    marks: tuple[ClassMark, ...]
    note: str
    """What is left out, if anything."""


def feature_spaces(runs: Sequence[Run], points: int) -> tuple[list[FeatureSpace], list[str]]:
    """Of each run that kept features, and a line for each other."""
    found, missing = [], []
    for number, run in enumerate(runs):
        try:
            found.append(_feature_space(run, number, points))
        except EvaluationError as error:
            missing.append(f"{run.name}: {error}")
    return found, missing


def principal_components(features: KeptFeatures) -> Components:
    """Of all images, from the covariance in float64.

    Raises:
        EvaluationError: all features are alike.
    """
    total, products = np.zeros(features.width), np.zeros((features.width, features.width))
    origin = features.rows(0, 1)[0].astype(np.float64)  # near the mean: sums of squares lose fewer digits
    for first in range(0, len(features), _ROWS_AT_ONCE):
        rows = features.rows(first, min(first + _ROWS_AT_ONCE, len(features))) - origin
        total += rows.sum(axis=0)
        products += rows.T @ rows
    mean = total / len(features)
    variances, axes = np.linalg.eigh(products / len(features) - np.outer(mean, mean))
    variances = np.maximum(variances[::-1], 0)
    if variances.sum() <= 1e-12 * max(1.0, float(np.square(origin).sum())):
        raise EvaluationError("all features are alike: the representation has collapsed")
    return Components(mean=mean + origin, axes=axes[:, ::-1], shares=variances / variances.sum())


def spread_rows(count: int, most: int) -> Ids:
    """Rows evenly spread over a split, so that data stored class by class is met evenly."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def shown_classes(labels: Ids) -> list[int]:
    """The classes that are told apart by colour: all, or as many as there are colours, chosen by a hash."""
    present = np.unique(labels)
    if len(present) > len(COLOURS):
        present = present[np.argsort(hash64(_CLASS_CHOICE, present))[: len(COLOURS)]]
    return sorted(present.tolist())


@page_style
def draw_spectrum(spaces: Sequence[FeatureSpace]) -> Picture:
    """How many components hold how much of the variance, all runs in one set of axes."""
    figure, axes = new_axes(5.6, 2.8)
    for space in spaces:
        held = np.cumsum(space.components.shares)
        axes.plot(
            np.arange(1, len(held) + 1),
            held,
            color=COLOURS[space.number],
            linestyle=dash_pattern(space.number),
            linewidth=1.4,
        )
    axes.set_xscale("log")
    plain_logarithmic(axes.xaxis)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("principal components")
    axes.set_ylabel("share of the variance")
    told = "; ".join(
        f"{space.run}: half of the variance in {space.components.needed_for(0.5)}, 90 % in "
        f"{space.components.needed_for(0.9)} of {len(space.components.shares)} components"
        for space in spaces
    )
    return Picture(svg=inline_svg(figure, "spectrum", f"Variance held by the first components. {told}."), caption=told)


def _feature_space(run: Run, number: int, points: int) -> FeatureSpace:
    data = scored_data(run)
    features = open_features(run, data.split, len(data.classes))
    components = principal_components(features)
    rows = spread_rows(len(features), points)
    some = np.concatenate([features.rows(row, row + 1) for row in rows.tolist()])
    projected = (some - components.mean) @ components.axes[:, :_BEFORE_TSNE]
    labels = features.labels[rows]
    classes = shown_classes(labels)
    first, second = components.shares[:2] if len(components.shares) > 1 else (1.0, 0.0)
    held = f"{100 * first:.1f} % and {100 * second:.1f} %"
    where = f"{len(rows):,} of {len(features):,} images of {data.split}"
    note, tsne = "", None
    if len(rows) < _FEWEST_POINTS:
        note = f"No t-SNE: {len(rows)} images are too few."
    else:
        tsne = _draw_points(
            _tsne(projected),
            labels,
            classes,
            data.classes,
            name=f"tsne-{number}",
            title="t-SNE",
            label=f"t-SNE of {run.name}: {where}, coloured by class.",
            caption=f"t-SNE of {where}, perplexity {min(_PERPLEXITY, (len(rows) - 1) / 3):g}, from the first "
            f"{projected.shape[1]} principal components. Distances between far groups mean nothing.",
        )
    if len(classes) < len(np.unique(labels)):
        note = f"{note} {len(classes)} classes, chosen by a hash, have colours; the others are gray.".strip()
    plane = projected[:, :2] if projected.shape[1] > 1 else np.pad(projected, ((0, 0), (0, 1)))
    return FeatureSpace(
        run=run.name,
        number=number,
        pca=_draw_points(
            plane,
            labels,
            classes,
            data.classes,
            name=f"pca-{number}",
            title="PCA",
            label=f"Two principal components of {run.name}: {where}, coloured by class.",
            caption=f"The two strongest principal components, which hold {held} of the variance; {where}.",
        ),
        tsne=tsne,
        components=components,
        marks=tuple(
            ClassMark(name=data.classes[label], colour=COLOURS[i], character=list(MARKERS.values())[i])
            for i, label in enumerate(classes)
        ),
        note=note,
    )


def _tsne(projected: Floats) -> Floats:
    """(P, 2), the same each time."""
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise EvaluationError("scikit-learn is not installed; get it with `pip install -e '.[report]'`") from None
    perplexity = min(_PERPLEXITY, (len(projected) - 1) / 3)
    method = "exact" if len(projected) <= _FEW_POINTS else "barnes_hut"
    places: Floats = TSNE(perplexity=perplexity, init="pca", random_state=0, method=method).fit_transform(projected)
    return places


@page_style
def _draw_points(
    places: Floats,
    labels: Ids,
    classes: Sequence[int],
    names: Sequence[str],
    *,
    name: str,
    title: str,
    label: str,
    caption: str,
) -> Picture:
    figure, axes = new_axes(4.8, 4.4)
    rest = ~np.isin(labels, classes)
    axes.scatter(places[rest, 0], places[rest, 1], s=5, color=_REST, alpha=0.4, linewidths=0, rasterized=True)
    for i, (marker, label_of_class) in enumerate(zip(MARKERS, classes, strict=False)):
        its = places[labels == label_of_class]
        axes.scatter(
            its[:, 0], its[:, 1], s=11, color=COLOURS[i], marker=marker, alpha=0.75, linewidths=0, rasterized=True
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    label_points(axes, np.array([_typical(places[labels == c]) for c in classes]), [names[c] for c in classes])
    axes.set_title(title, loc="left", fontweight="bold", fontsize=10)
    return Picture(svg=inline_svg(figure, name, label), caption=caption)


def _typical(places: Floats) -> Floats:
    """The point nearest to the median, which itself may lie where no point is."""
    away = np.square(places - np.median(places, axis=0)).sum(axis=1)
    typical: Floats = places[away.argmin()]
    return typical
