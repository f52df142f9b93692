import math

import numpy as np
import pytest
import torch
from torch import Tensor

from eval.config import KnnConfig
from eval.features import LabelledFeatures
from eval.knn import knn_classify, score_knn

CPU = torch.device("cpu")
CLASSES = 5


def memory(samples: int = 300, features: int = 12, seed: int = 0) -> LabelledFeatures:
    """Overlapping classes, so that votes are close."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (samples,), generator=generator)
    centres = torch.randn(CLASSES, features, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(samples, features, generator=generator)
    return LabelledFeatures(features=0.6 * centres[labels] + noise, labels=labels)


def naive_vote(train: LabelledFeatures, queries: Tensor, k: int, temperature: float) -> list[int]:
    """Wu et al. 2018, section 3.4, as loops in float64."""
    keys = [key / np.linalg.norm(key) for key in train.features.double().numpy()]
    predicted = []
    for query in queries.double().numpy():
        similarities = [float(query / np.linalg.norm(query) @ key) for key in keys]
        nearest = sorted(range(len(keys)), key=lambda i: -similarities[i])[:k]
        votes = [0.0] * CLASSES
        for i in nearest:
            votes[int(train.labels[i])] += math.exp(similarities[i] / temperature)
        predicted.append(max(range(CLASSES), key=lambda label: votes[label]))
    return predicted


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.07), (200, 0.1), (200, 10.0)])
def test_the_vote_is_that_of_the_naive_loop(k: int, temperature: float) -> None:
    train, queries = memory(), memory(100, seed=1).features
    predicted = knn_classify(train, queries, CLASSES, KnnConfig(k=k, temperature=temperature), CPU)
    assert predicted.tolist() == naive_vote(train, queries, k, temperature)


@pytest.mark.parametrize("chunk_similarities", [1, 300 * 7, 10**9])
def test_the_chunk_size_does_not_change_the_vote(chunk_similarities: int) -> None:
    train, queries = memory(), memory(100, seed=1).features
    whole = knn_classify(train, queries, CLASSES, KnnConfig(), CPU)
    assert torch.equal(knn_classify(train, queries, CLASSES, KnnConfig(), CPU, chunk_similarities), whole)


def test_the_length_of_features_does_not_matter() -> None:
    train, queries = memory(), memory(100, seed=1).features
    scale = torch.rand(len(train.features), 1, generator=torch.Generator().manual_seed(2)) * 10 + 0.1
    rescaled = LabelledFeatures(features=train.features * scale, labels=train.labels)
    expected = knn_classify(train, queries, CLASSES, KnnConfig(k=5), CPU)
    assert torch.equal(knn_classify(rescaled, queries * 3, CLASSES, KnnConfig(k=5), CPU), expected)


def test_k_is_at_most_the_number_of_train_images() -> None:
    train, test = memory(30), memory(20, seed=1)
    score = score_knn(train, test, CLASSES, KnnConfig(k=200), CPU)
    assert score.k == 30
    assert score == score_knn(train, test, CLASSES, KnnConfig(k=30), CPU)


def test_every_train_image_is_its_own_nearest_neighbour() -> None:
    train = memory()
    assert score_knn(train, train, CLASSES, KnnConfig(k=1), CPU).top1 == 1.0


def test_a_low_temperature_does_not_overflow() -> None:
    train, queries = memory(), memory(100, seed=1).features
    coldest = knn_classify(train, queries, CLASSES, KnnConfig(k=50, temperature=1e-4), CPU)
    assert coldest.tolist() == naive_vote(train, queries, 1, 1.0)
