import math

import numpy as np
import pytest
import torch
from evaluation_on_ranks import neighbours_on_ranks, vote_on_ranks
from rank_pool import RankPool
from torch import Tensor

from eval.features import LabelledFeatures
from eval.held_out import held_out_rows
from eval.knn import choose_vote, find_neighbours, vote

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


def classify(train: LabelledFeatures, queries: Tensor, k: int = 200, temperature: float = 0.1) -> Tensor:
    return vote(find_neighbours(train, queries, k, CPU), k, temperature, CLASSES)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.07), (200, 0.1), (200, 10.0)])
def test_the_vote_is_that_of_the_naive_loop(k: int, temperature: float) -> None:
    train, queries = memory(), memory(100, seed=1).features
    assert classify(train, queries, k, temperature).tolist() == naive_vote(train, queries, k, temperature)


def test_fewer_neighbours_than_were_found_may_vote() -> None:
    train, queries = memory(), memory(100, seed=1).features
    found = find_neighbours(train, queries, 200, CPU)
    for k in (1, 7, 50):
        assert vote(found, k, 0.1, CLASSES).tolist() == naive_vote(train, queries, k, 0.1)


@pytest.mark.parametrize("chunk_similarities", [1, 300 * 7, 10**9])
def test_the_chunk_size_does_not_change_what_is_found(chunk_similarities: int) -> None:
    train, queries = memory(), memory(100, seed=1).features
    whole = find_neighbours(train, queries, 20, CPU)
    chunked = find_neighbours(train, queries, 20, CPU, chunk_similarities)
    assert torch.equal(chunked.label, whole.label)
    torch.testing.assert_close(chunked.similarity, whole.similarity)


def test_the_length_of_features_does_not_matter() -> None:
    train, queries = memory(), memory(100, seed=1).features
    scale = torch.rand(len(train.features), 1, generator=torch.Generator().manual_seed(2)) * 10 + 0.1
    rescaled = LabelledFeatures(features=train.features * scale, labels=train.labels)
    assert torch.equal(classify(rescaled, queries * 3, k=5), classify(train, queries, k=5))


def test_k_is_at_most_the_number_of_train_images() -> None:
    train, queries = memory(30), memory(20, seed=1).features
    assert find_neighbours(train, queries, 200, CPU).label.shape == (20, 30)
    assert torch.equal(classify(train, queries, k=200), classify(train, queries, k=30))


def test_every_train_image_is_its_own_nearest_neighbour() -> None:
    train = memory()
    assert torch.equal(classify(train, train.features, k=1), train.labels)


def test_a_low_temperature_does_not_overflow() -> None:
    train, queries = memory(), memory(100, seed=1).features
    assert classify(train, queries, k=50, temperature=1e-4).tolist() == naive_vote(train, queries, 1, 1.0)


def test_the_pair_that_answers_a_held_out_tenth_best_is_chosen() -> None:
    """Naively: the tenth by loops, every pair by the naive vote."""
    train = memory()
    held_out = held_out_rows(train.labels, CLASSES)
    rest = LabelledFeatures(features=train.features[~held_out], labels=train.labels[~held_out])
    right = train.labels[held_out].tolist()
    shares = {}
    for k in (1, 5, 100):
        for temperature in (0.05, 5.0):
            answers = naive_vote(rest, train.features[held_out], k, temperature)
            hits = [answer == label for answer, label in zip(answers, right, strict=True)]
            shares[k, temperature] = sum(hits) / len(hits)
    k, temperature, share = choose_vote(train, (1, 5, 100), (0.05, 5.0), CLASSES, CPU)
    assert share == pytest.approx(max(shares.values()))
    assert (k, temperature) == max(shares, key=shares.__getitem__)
    assert len(set(shares.values())) > 1


def test_the_first_pair_is_taken_where_nothing_can_be_held_out() -> None:
    single = LabelledFeatures(features=torch.eye(CLASSES), labels=torch.arange(CLASSES))
    assert choose_vote(single, (3, 1), (0.5, 0.1), CLASSES, CPU) == (3, 0.5, 0.0)


def test_two_ranks_find_the_neighbours_of_one(two_ranks: RankPool) -> None:
    train, queries = memory(301), memory(100, seed=1).features
    alone = find_neighbours(train, queries, 200, CPU)
    pair = choose_vote(train, (1, 5, 100), (0.05, 5.0), CLASSES, CPU)
    for found in two_ranks.run(neighbours_on_ranks, train, queries, 200):
        torch.testing.assert_close(found.similarity, alone.similarity)
        assert torch.equal(vote(found, 200, 0.1, CLASSES), vote(alone, 200, 0.1, CLASSES))
    assert two_ranks.run(vote_on_ranks, train, [1, 5, 100], [0.05, 5.0], CLASSES) == [pair, pair]
