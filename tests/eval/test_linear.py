from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from evaluation_on_ranks import linear_on_ranks
from rank_pool import RankPool
from sklearn.linear_model import LogisticRegression as SklearnRegression
from torch import Tensor

from eval.errors import EvaluationError
from eval.features import LabelledFeatures
from eval.linear import (
    L2_GRID,
    LogisticRegression,
    answer_linear,
    choose_l2,
    covariance_of,
    fit_logistic,
)

CPU = torch.device("cpu")
Floats = npt.NDArray[np.float64]


def clusters(samples: int, classes: int, features: int, distance: float, seed: int = 0) -> LabelledFeatures:
    """Gaussian classes whose centres lie a distance from the origin."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, features, generator=torch.Generator().manual_seed(99))
    centres *= distance / centres.norm(dim=1, keepdim=True)
    labels = torch.arange(samples) % classes
    return LabelledFeatures(
        features=centres[labels] + torch.randn(samples, features, generator=generator), labels=labels
    )


def zeros(classes: int, features: int) -> LogisticRegression:
    return LogisticRegression(weight=torch.zeros(classes, features), bias=torch.zeros(classes), converged=False)


def fit(data: LabelledFeatures, l2: float, start: LogisticRegression) -> LogisticRegression:
    return fit_logistic(data.features, data.labels, l2, start, covariance_of(data.features), tolerance=1e-4)


def naive_optimum(x: Floats, labels: Floats, classes: int, l2: float) -> tuple[Floats, Floats, float]:
    """Newton's method in float64 on the whole Hessian: weight, bias and objective."""
    samples = len(x)
    inputs = np.concatenate([x, np.ones((samples, 1))], axis=1)
    target = np.eye(classes)[labels.astype(int)]
    penalty = np.tile([l2] * x.shape[1] + [0.0], classes)
    w = np.zeros(classes * inputs.shape[1])
    for _ in range(30):
        logits = inputs @ w.reshape(classes, -1).T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        gradient = ((p - target).T @ inputs).reshape(-1) / samples + penalty * w
        hessian = np.diag(penalty)
        for row, share in zip(inputs, p, strict=True):
            hessian += np.kron(np.diag(share) - np.outer(share, share), np.outer(row, row)) / samples
        w -= np.linalg.pinv(hessian, hermitian=True) @ gradient  # a shift of all biases changes nothing
    assert np.abs(gradient).max() < 1e-12
    weight, bias = w.reshape(classes, -1)[:, :-1], w.reshape(classes, -1)[:, -1]
    loss = -np.log(p[np.arange(samples), labels.astype(int)]).mean() + l2 / 2 * (weight**2).sum()
    return weight, bias, float(loss)


def objective(probe: LogisticRegression, data: LabelledFeatures, l2: float) -> Tensor:
    weight, bias = probe.weight.double(), probe.bias.double()
    logits = data.features.double() @ weight.T + bias
    return torch.nn.functional.cross_entropy(logits, data.labels) + l2 / 2 * weight.square().sum()


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_the_fit_is_the_optimum_that_newtons_method_finds(l2: float) -> None:
    data = clusters(120, classes=3, features=4, distance=1.0)
    probe = fit(data, l2, zeros(3, 4))
    weight, bias, loss = naive_optimum(data.features.double().numpy(), data.labels.double().numpy(), 3, l2)
    assert probe.converged
    np.testing.assert_allclose(probe.weight.numpy(), weight, atol=2e-3)
    np.testing.assert_allclose((probe.bias - probe.bias.mean()).numpy(), bias - bias.mean(), atol=2e-3)
    assert float(objective(probe, data, l2)) == pytest.approx(loss, abs=1e-7)


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_the_fit_is_that_of_scikit_learn(l2: float) -> None:
    data = clusters(2000, classes=10, features=32, distance=1.5)
    x, labels = data.features.double().numpy(), data.labels.numpy()
    theirs = SklearnRegression(C=1 / (len(x) * l2), tol=1e-8, max_iter=5000).fit(x, labels)
    probe = fit(data, l2, zeros(10, 32))
    np.testing.assert_allclose(probe.weight.numpy(), theirs.coef_, atol=2e-3)
    np.testing.assert_allclose((probe.bias - probe.bias.mean()).numpy(), theirs.intercept_, atol=2e-3)
    unseen = clusters(2000, classes=10, features=32, distance=1.5, seed=1).features
    assert (probe.predict(unseen).numpy() == theirs.predict(unseen.double().numpy())).mean() > 0.998


def test_the_gradient_vanishes_at_the_fit_even_for_features_that_are_nearly_copies() -> None:
    data = clusters(500, classes=5, features=20, distance=1.0)
    copies = data.features + 1e-3 * torch.randn(500, 20, generator=torch.Generator().manual_seed(3))
    data = LabelledFeatures(features=torch.cat([data.features, copies], dim=1), labels=data.labels)
    probe = fit(data, 1e-3, zeros(5, 40))
    weight, bias = probe.weight.double().requires_grad_(), probe.bias.double().requires_grad_()
    at_fit = LogisticRegression(weight=weight, bias=bias, converged=True)
    gradients = torch.autograd.grad(objective(at_fit, data, 1e-3), (weight, bias))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 2e-4


def test_fewer_samples_than_features_are_fitted() -> None:
    data = clusters(30, classes=3, features=200, distance=1.0)
    probe = fit(data, L2_GRID[-1], zeros(3, 200))
    assert probe.converged
    assert torch.equal(probe.predict(data.features), data.labels)


def test_where_the_fit_starts_does_not_matter() -> None:
    data = clusters(200, classes=3, features=6, distance=1.0)
    cold = fit(data, 1e-2, zeros(3, 6))
    weak = fit(data, 1e-5, zeros(3, 6))
    warm = fit(data, 1e-2, weak)
    torch.testing.assert_close(warm.weight, cold.weight, rtol=0, atol=1e-3)


def test_a_fit_that_runs_out_of_iterations_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.linear._ITERATIONS", 1)
    data = clusters(200, classes=3, features=6, distance=1.0)
    assert not fit(data, 1e-4, zeros(3, 6)).converged


def top1(train: LabelledFeatures, test: LabelledFeatures, classes: int) -> tuple[float, dict[str, Any]]:
    """Of an answer, and its details."""
    answer = answer_linear(train, test, classes, CPU)
    return float((answer.predictions == test.labels).float().mean()), answer.details


def test_separable_classes_are_separated() -> None:
    train, test = (clusters(400, classes=4, features=16, distance=12.0, seed=seed) for seed in (0, 1))
    share, details = top1(train, test, 4)
    assert share == 1.0
    assert details["converged"]


def test_features_without_information_score_chance() -> None:
    train, test = (clusters(2000, classes=4, features=8, distance=0.0, seed=seed) for seed in (0, 1))
    assert top1(train, test, 4)[0] == pytest.approx(0.25, abs=0.05)


def test_scale_and_offset_of_features_do_not_matter() -> None:
    train, test = (clusters(400, classes=4, features=8, distance=1.5, seed=seed) for seed in (0, 1))
    scale, offset = torch.logspace(-3, 3, 8), torch.linspace(-5, 5, 8)
    plain, plain_details = top1(train, test, 4)
    train, test = (
        LabelledFeatures(features=(part.features + offset) * scale, labels=part.labels) for part in (train, test)
    )
    moved, moved_details = top1(train, test, 4)
    assert moved_details["l2"] == plain_details["l2"]
    assert moved == pytest.approx(plain, abs=0.01)


def test_a_constant_feature_is_harmless() -> None:
    train, test = (clusters(200, classes=2, features=4, distance=2.0, seed=seed) for seed in (0, 1))
    without = answer_linear(train, test, 2, CPU).predictions
    train, test = (
        LabelledFeatures(features=torch.cat([part.features, torch.full((200, 1), 7.0)], dim=1), labels=part.labels)
        for part in (train, test)
    )
    assert torch.equal(answer_linear(train, test, 2, CPU).predictions, without)


def test_the_l2_strength_is_chosen_without_the_test_split() -> None:
    train, test = (clusters(300, classes=3, features=30, distance=1.5, seed=seed) for seed in (0, 1))
    misleading = LabelledFeatures(features=-10 * test.features, labels=test.labels.roll(1))
    (one, details), (other, misled) = top1(train, test, 3), top1(train, misleading, 3)
    assert details == misled
    assert one != other


def test_few_samples_of_many_noisy_features_want_a_stronger_l2_than_plenty_of_few() -> None:
    noisy = clusters(200, classes=2, features=150, distance=1.0)
    plenty = clusters(4000, classes=2, features=3, distance=1.0)
    strong, _, _ = choose_l2(noisy.features, noisy.labels, 2, covariance_of(noisy.features))
    weak, _, _ = choose_l2(plenty.features, plenty.labels, 2, covariance_of(plenty.features))
    assert strong in L2_GRID
    assert weak <= strong


def test_a_single_image_per_class_is_refused() -> None:
    data = clusters(3, classes=3, features=4, distance=1.0)
    with pytest.raises(EvaluationError, match="second train image"):
        answer_linear(data, data, 3, CPU)


def test_two_ranks_find_the_optimum_of_one(two_ranks: RankPool) -> None:
    train, test = (clusters(301, classes=4, features=12, distance=1.5, seed=seed) for seed in (0, 1))
    alone = answer_linear(train, test, 4, CPU)
    for predictions, details in two_ranks.run(linear_on_ranks, train, test, 4):
        assert torch.equal(predictions, alone.predictions)
        assert details == pytest.approx(alone.details, abs=1e-6)
