import numpy as np
import pytest

from eval.confidence import bootstrap_difference, bootstrap_interval, measure

RIGHT = np.array([0] * 10 + [1] * 90, dtype=np.int32)


def answered(right: np.ndarray, accuracy: float, seed: int) -> np.ndarray:
    """Right with this probability, else the next class of three."""
    wrong = np.random.default_rng(seed).random(len(right)) >= accuracy
    return ((right + wrong) % 3).astype(np.int32)


def test_top1_counts_images_and_mean_per_class_classes() -> None:
    always_1 = np.ones_like(RIGHT)
    assert measure(always_1, RIGHT, "top1") == 0.9
    assert measure(always_1, RIGHT, "mean_per_class") == 0.5
    assert measure(RIGHT, RIGHT, "mean_per_class") == 1.0


def test_a_class_without_images_does_not_count() -> None:
    right = np.array([0, 0, 2, 2], dtype=np.int32)
    assert measure(np.array([0, 1, 2, 2], dtype=np.int32), right, "mean_per_class") == 0.75


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_the_interval_is_that_of_resampled_images(metric: str) -> None:
    """Naively: images drawn with replacement, one resample after another."""
    right = np.repeat(np.arange(3), [200, 50, 20]).astype(np.int32)
    predicted = answered(right, 0.7, seed=1)
    generator = np.random.default_rng(5)
    rows = generator.integers(len(right), size=(4000, len(right)))
    naive = [measure(predicted[row], right[row], metric) for row in rows]
    expected = np.quantile(naive, [0.025, 0.975])
    np.testing.assert_allclose(bootstrap_interval(predicted, right, metric), expected, atol=0.008)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    right = np.zeros(500, dtype=np.int32)
    intervals = [bootstrap_interval(answered(right, 0.8, seed), right, "top1") for seed in range(300)]
    covered = np.mean([low <= 0.8 <= high for low, high in intervals])
    assert 0.91 <= covered <= 0.985


def test_a_perfect_score_has_no_width() -> None:
    assert bootstrap_interval(RIGHT, RIGHT, "top1") == (1.0, 1.0)
    assert bootstrap_interval(RIGHT, RIGHT, "mean_per_class") == (1.0, 1.0)


def test_the_same_answers_give_the_same_interval() -> None:
    predicted = answered(RIGHT, 0.6, seed=2)
    for metric in ("top1", "mean_per_class"):
        assert bootstrap_interval(predicted, RIGHT, metric) == bootstrap_interval(predicted, RIGHT, metric)


def test_a_difference_is_that_of_resampled_pairs() -> None:
    right = np.zeros(400, dtype=np.int32)
    first = answered(right, 0.8, seed=1)
    second = np.where(np.arange(400) < 300, first, answered(right, 0.6, seed=2)).astype(np.int32)
    value, low, high = bootstrap_difference(first, second, right)
    assert value == pytest.approx(measure(first, right, "top1") - measure(second, right, "top1"))
    rows = np.random.default_rng(5).integers(400, size=(4000, 400))
    naive = [(first[row] == 0).mean() - (second[row] == 0).mean() for row in rows]
    np.testing.assert_allclose((low, high), np.quantile(naive, [0.025, 0.975]), atol=0.006)


def test_equal_answers_do_not_differ() -> None:
    predicted = answered(RIGHT, 0.5, seed=3)
    assert bootstrap_difference(predicted, predicted, RIGHT) == (0.0, 0.0, 0.0)
