"""The linear probe: multinomial logistic regression on frozen, standardised features, solved to its optimum.

held out of train: choose the L2 strength  ->  all of train: refit  ->  test: score, once

The probe of Chen et al. 2020, appendix B.8.1 (L-BFGS, no augmentation, L2 from a grid): a convex problem with one
answer, without the learning rate, epochs and augmentation of their SGD probe. Ours standardises the features.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor

from eval.errors import EvaluationError
from eval.features import LabelledFeatures, share_equal
from pipelines.hashing import hash64

L2_GRID = tuple(10 ** (-half_decades / 2) for half_decades in range(13))
"""Strong to weak, 1 to 1e-6: each solution is a good start for the next."""
_PATIENCE = 3  # weaker values in a row without a better one, after which the sweep ends
_HELD_OUT_SHARE = 0.1
_HELD_OUT = 100  # first word of the hash; see pipelines/order.py
# Of the gradient. 1e-4 is what float32 features allow: the objective is then known to 1e-8, about the rounding error.
_TOLERANCE, _SWEEP_TOLERANCE = 1e-4, 1e-3
_ITERATIONS = 200
_COVARIANCE_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class LinearScore:
    """What the probe came to."""

    top1: float
    """Share of test images, in [0, 1]."""
    l2: float
    """The strength that was chosen."""
    held_out_top1: float
    """Share of held-out train images at that strength."""
    converged: bool
    """Whether the final fit reached its optimum within the iterations allowed."""


@dataclass(frozen=True, kw_only=True)
class LogisticRegression:
    """logits = features @ weight.T + bias."""

    weight: Tensor
    """(classes, D)."""
    bias: Tensor
    """(classes,)."""
    converged: bool

    def top1(self, features: Tensor, labels: Tensor) -> float:
        """Share of features, (N, D), whose highest logit is that of their label."""
        return share_equal(F.linear(features, self.weight, self.bias).argmax(dim=1), labels)


def score_linear(train: LabelledFeatures, test: LabelledFeatures, classes: int, device: torch.device) -> LinearScore:
    """Fit on train, score on test.

    Raises:
        EvaluationError: no class has a second train image, so that none can be held out.
    """
    mean, std = train.features.mean(dim=0), train.features.std(dim=0).clamp(min=1e-6)
    features, labels = ((train.features - mean) / std).to(device), train.labels.to(device)
    covariance = covariance_of(features)
    l2, held_out_top1, start = choose_l2(features, labels, classes, covariance)
    probe = fit_logistic(features, labels, l2, start, covariance, tolerance=_TOLERANCE)
    top1 = probe.top1(((test.features - mean) / std).to(device), test.labels.to(device))
    return LinearScore(top1=top1, l2=l2, held_out_top1=held_out_top1, converged=probe.converged)


def choose_l2(
    features: Tensor, labels: Tensor, classes: int, covariance: Tensor
) -> tuple[float, float, LogisticRegression]:
    """Try the grid on nine tenths of train and score it on the rest; of equals, the strongest wins.

    Args:
        features: (N, D) standardised.
        labels: (N,).
        classes: their number.
        covariance: of the features.

    Returns:
        The L2 strength, its held-out top-1 and its fit, from which a fit on all of train can start.

    Raises:
        EvaluationError: nothing can be held out.
    """
    held_out = held_out_rows(labels.cpu(), classes).to(features.device)
    if not held_out.any():
        raise EvaluationError("linear: no class has a second train image, which choosing the L2 strength needs")
    fitted, fitted_labels = features[~held_out], labels[~held_out]
    unseen, unseen_labels = features[held_out], labels[held_out]
    probe = LogisticRegression(
        weight=features.new_zeros(classes, features.shape[1]), bias=features.new_zeros(classes), converged=False
    )
    best_l2, best_top1, best, since_best = L2_GRID[0], -1.0, probe, 0
    for l2 in L2_GRID:
        probe = fit_logistic(fitted, fitted_labels, l2, probe, covariance, tolerance=_SWEEP_TOLERANCE)
        top1 = probe.top1(unseen, unseen_labels)
        if top1 > best_top1:
            best_l2, best_top1, best, since_best = l2, top1, probe, 0
        else:
            since_best += 1
            if since_best == _PATIENCE:
                break
    return best_l2, best_top1, best


def held_out_rows(labels: Tensor, classes: int) -> Tensor:
    """Choose a tenth of each class, rounded up but leaving one to learn from: (N,) labels -> (N,) bool.

    By hash, so that the choice depends on nothing but the labels.
    """
    label = labels.numpy()
    order = np.lexsort((hash64(_HELD_OUT, np.arange(len(label))), label))  # class by class, shuffled within
    count = np.bincount(label, minlength=classes)
    place_in_class = np.arange(len(label)) - np.repeat(np.cumsum(count) - count, count)
    wanted = np.minimum(np.ceil(_HELD_OUT_SHARE * count), count - 1)
    held_out = np.empty(len(label), dtype=bool)
    held_out[order] = place_in_class < wanted[label[order]]
    return torch.from_numpy(held_out)


def fit_logistic(
    features: Tensor, labels: Tensor, l2: float, start: LogisticRegression, covariance: Tensor, *, tolerance: float
) -> LogisticRegression:
    """Minimise mean cross-entropy + l2/2 · ‖weight‖² by L-BFGS; the bias is free.

    In coordinates in which the Hessian at zero weights, covariance / classes + l2, is the identity. There a gradient of
    norm g is about g²/2 from the optimal objective, whatever the features, and raw pixels (10,000 of CIFAR-10) take 14
    evaluations where plain L-BFGS takes 65 (l2 = 0.1) to 300 (0.001).

    Args:
        features: (N, D) standardised.
        labels: (N,).
        l2: strength > 0.
        start: where to begin; zeros will do.
        covariance: of the features; shapes the path, not the optimum.
        tolerance: of the gradient's largest component, in these coordinates.
    """
    classes = len(start.weight)
    factor, inverse = _whitening(covariance / classes, l2)
    bias_scale = math.sqrt(classes)
    # Features and logits are float32; sums over samples are float64, or the line search would compare rounding errors.
    whitened = (start.weight.double() @ factor).requires_grad_()
    scaled_bias = (start.bias.double() / bias_scale).requires_grad_()

    def solution() -> tuple[Tensor, Tensor]:
        return (whitened @ inverse).to(features.dtype), (scaled_bias * bias_scale).to(features.dtype)

    optimizer = torch.optim.LBFGS(
        [whitened, scaled_bias],
        max_iter=_ITERATIONS,
        tolerance_grad=tolerance,
        tolerance_change=0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        weight, bias = solution()
        fit = F.cross_entropy(F.linear(features, weight, bias).double(), labels)
        loss: Tensor = fit + l2 / 2 * weight.double().square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    objective()
    gradients = [parameter.grad for parameter in (whitened, scaled_bias) if parameter.grad is not None]
    weight, bias = solution()
    return LogisticRegression(
        weight=weight.detach(),
        bias=bias.detach(),
        converged=max(float(gradient.abs().max()) for gradient in gradients) <= tolerance,
    )


def covariance_of(features: Tensor) -> Tensor:
    """Second moments of standardised features, (N, D) -> (D, D) float64, from some thousand rows spread over them."""
    rows = features[:: max(1, len(features) // _COVARIANCE_ROWS)].double()
    return rows.T @ rows / len(rows)


def _whitening(hessian: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """(D, D) Cholesky factor of hessian + l2, and its inverse, in float64: rounding would outweigh a weak l2."""
    identity = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    factor = torch.linalg.cholesky(hessian + l2 * identity)
    return factor, torch.linalg.solve_triangular(factor, identity, upper=False)
