"""The nearest-neighbour vote on frozen features: nothing is learned but how many neighbours vote, and how sharply.

train, less a tenth -> the tenth: choose k and temperature  ->  train -> test: score, once
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor

from eval.evaluation import Evaluation
from eval.features import LabelledFeatures, share_equal
from eval.held_out import held_out_rows
from eval.ranks import gather_rows, part_of, total
from eval.scores import Answer, ScoreBook, Task

USUAL_K, USUAL_TEMPERATURE = 200, 0.1
"""What most code scores CIFAR-10 with, so that numbers compare; Wu et al. have 200 and 0.07."""
_CHUNK_SIMILARITIES = 2**24


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The most similar of the memory to each query, the nearest first."""

    similarity: Tensor
    """(Q, k) cosines, on the host; -inf where the memory holds fewer."""
    label: Tensor
    """(Q, k) int64."""


def score_knn(evaluation: Evaluation, book: ScoreBook) -> None:
    """Score each representation with the k and temperature that do best on a held-out tenth of train, and the usual.

    Raises:
        EvaluationError: features are not finite.
        DataError: an image is damaged.
    """
    for representation in evaluation.representations:
        _score(representation, evaluation, book)


def _score(representation: str, evaluation: Evaluation, book: ScoreBook) -> None:
    subject, config, classes = evaluation.subject, evaluation.subject.config.knn, evaluation.classes
    samples = len(subject.train)

    @cache
    def nearest() -> Neighbours:
        train = evaluation.features(subject.train, representation)
        queries = gather_rows(evaluation.features(subject.test, representation).features)
        return find_neighbours(train, queries, max(*config.k, USUAL_K), evaluation.device)

    def chosen() -> Answer:
        train = evaluation.features(subject.train, representation)
        k, temperature, top1 = choose_vote(train, config.k, config.temperature, classes, evaluation.device)
        details = {"k": min(k, samples), "temperature": temperature, "held_out_top1": top1}
        return Answer(predictions=vote(nearest(), k, temperature, classes), details=details)

    def usual() -> Answer:
        details = {"k": min(USUAL_K, samples), "temperature": USUAL_TEMPERATURE}
        return Answer(predictions=vote(nearest(), USUAL_K, USUAL_TEMPERATURE, classes), details=details)

    for variant, settings, compute in (
        ("", asdict(config), chosen),
        (f"k={USUAL_K} T={USUAL_TEMPERATURE}", {}, usual),
    ):
        task = Task(
            protocol="knn",
            variant=variant,
            representation=representation,
            settings=settings,
            test=subject.test,
            n_train=samples,
        )
        book.score(task, compute)


def choose_vote(
    train: LabelledFeatures, ks: Sequence[int], temperatures: Sequence[float], classes: int, device: torch.device
) -> tuple[int, float, float]:
    """Try every pair on a tenth of train, whose neighbours are looked for among the rest.

    Args:
        train: this rank's part.
        ks: numbers of neighbours.
        temperatures: of the vote.
        classes: their number.
        device: where it is computed.

    Returns:
        The best k, its temperature and their top-1 on the tenth; of equals, the first pair. The first of all where no
        class has a second image that could be held out.
    """
    labels = gather_rows(train.labels)
    held_out = held_out_rows(labels, classes)
    if not held_out.any():
        return ks[0], temperatures[0], 0.0
    ours = held_out[part_of(len(labels)).rows]
    memory = LabelledFeatures(features=train.features[~ours], labels=train.labels[~ours])
    queries, right = gather_rows(train.features[ours]), labels[held_out]
    found = find_neighbours(memory, queries, max(ks), device)
    pairs = [(k, temperature) for k in ks for temperature in temperatures]
    shares = [share_equal(vote(found, k, temperature, classes), right) for k, temperature in pairs]
    best = max(range(len(pairs)), key=shares.__getitem__)
    return *pairs[best], shares[best]


@torch.inference_mode()
def find_neighbours(
    memory: LabelledFeatures,
    queries: Tensor,
    k: int,
    device: torch.device,
    chunk_similarities: int = _CHUNK_SIMILARITIES,
) -> Neighbours:
    """The k features most similar to each query, exact: every query meets every feature, a few queries at a time.

    Each rank looks among its own part of the memory, then the best of all ranks' are kept.

    Args:
        memory: this rank's part.
        queries: (Q, D) float32 on the host, the same on all ranks.
        k: how many; all where the memory has fewer.
        device: where it is computed; holds this rank's part.
        chunk_similarities: held at once, 4 bytes each; at least one query's.

    Returns:
        On every rank.
    """
    ours = F.normalize(memory.features.to(device), dim=1)
    labels = memory.labels.to(device)
    everywhere = int(total(torch.tensor(len(labels))))
    k = min(k, everywhere)
    similarity, label = torch.full((len(queries), k), -torch.inf), torch.zeros(len(queries), k, dtype=torch.int64)
    chunk = max(1, chunk_similarities // max(1, len(labels)))
    for first in range(0, len(queries), chunk):
        rows = slice(first, first + chunk)
        nearest = (F.normalize(queries[rows].to(device), dim=1) @ ours.T).topk(min(k, len(labels)), dim=1)
        similarity[rows, : nearest.values.shape[1]] = nearest.values.cpu()
        label[rows, : nearest.values.shape[1]] = labels[nearest.indices].cpu()
    if len(labels) == everywhere:
        return Neighbours(similarity=similarity, label=label)
    of_all = [gather_rows(tensor.T.contiguous()).T for tensor in (similarity, label)]  # (Q, W·k)
    best = of_all[0].topk(k, dim=1)
    return Neighbours(similarity=best.values, label=of_all[1].gather(1, best.indices))


@torch.inference_mode()
def vote(neighbours: Neighbours, k: int, temperature: float, classes: int) -> Tensor:
    """Weighted vote of the k nearest (Wu et al. 2018, section 3.4).

    Args:
        neighbours: at least k, or all there are.
        k: how many vote.
        temperature: of exp(cosine / temperature), what a neighbour's vote counts.
        classes: their number.

    Returns:
        (Q,) int64 labels; of equal votes, the first class.
    """
    similarity, label = neighbours.similarity[:, :k], neighbours.label[:, :k]
    # Relative to the nearest, which changes no comparison and cannot overflow at a low temperature.
    weight = ((similarity - similarity[:, :1]) / temperature).exp()
    return torch.zeros(len(label), classes).scatter_add_(1, label, weight).argmax(dim=1)
