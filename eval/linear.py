"""The linear probe: multinomial logistic regression on frozen, standardised features, solved to its optimum.

held out of train: choose the L2 strength  ->  all of train: refit  ->  test: score, once

The probe of Chen et al. 2020, appendix B.8.1 (L-BFGS, no augmentation, L2 from a grid): a convex problem with one
answer, without the learning rate, epochs and augmentation of their SGD probe. Ours standardises the features.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor

from eval.errors import EvaluationError
from eval.evaluation import Evaluation
from eval.features import LabelledFeatures
from eval.held_out import held_out_rows
from eval.ranks import gather_rows, part_of, total
from eval.scores import Answer, ScoreBook, Task
from model.collectives import world_size

L2_GRID = tuple(10 ** (-half_decades / 2) for half_decades in range(13))
"""Strong to weak, 1 to 1e-6: each solution is a good start for the next."""
_PATIENCE = 3  # weaker values in a row without a better one, after which the sweep ends
# Of the gradient. 1e-4 is what float32 features allow: the objective is then known to 1e-8, about the rounding error.
_TOLERANCE, _SWEEP_TOLERANCE = 1e-4, 1e-3
_ITERATIONS = 200
_COVARIANCE_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class LogisticRegression:
    """logits = features @ weight.T + bias."""

    weight: Tensor
    """(classes, D)."""
    bias: Tensor
    """(classes,)."""
    converged: bool

    def predict(self, features: Tensor) -> Tensor:
        """(N, D) features -> (N,) labels, int64."""
        return F.linear(features, self.weight, self.bias).argmax(dim=1)


def score_linear(evaluation: Evaluation, book: ScoreBook) -> None:
    """Fit on train and score on test, for each representation.

    Raises:
        EvaluationError: no class has a second train image, so that none can be held out; or features are not finite.
        DataError: an image is damaged.
    """
    subject = evaluation.subject
    for representation in evaluation.representations:

        def compute(representation: str = representation) -> Answer:
            train, test = (evaluation.features(split, representation) for split in (subject.train, subject.test))
            return answer_linear(train, test, evaluation.classes, evaluation.device)

        task = Task(
            protocol="linear",
            representation=representation,
            settings={},
            test=subject.test,
            n_train=len(subject.train),
        )
        book.score(task, compute)


def answer_linear(train: LabelledFeatures, test: LabelledFeatures, classes: int, device: torch.device) -> Answer:
    """Fit on train, answer for test.

    Args:
        train: this rank's part.
        test: likewise.
        classes: their number.
        device: where it is computed.

    Raises:
        EvaluationError: no class has a second train image, so that none can be held out.
    """
    mean, std = mean_and_std(train.features)
    features, labels = ((train.features - mean) / std).to(device), train.labels.to(device)
    covariance = covariance_of(features)
    l2, held_out_top1, start = choose_l2(features, labels, classes, covariance)
    probe = fit_logistic(features, labels, l2, start, covariance, tolerance=_TOLERANCE)
    predictions = gather_rows(probe.predict(((test.features - mean) / std).to(device)).cpu())
    details = {"l2": l2, "held_out_top1": held_out_top1, "converged": probe.converged}
    return Answer(predictions=predictions, details=details)


def choose_l2(
    features: Tensor, labels: Tensor, classes: int, covariance: Tensor
) -> tuple[float, float, LogisticRegression]:
    """Try the grid on nine tenths of train and score it on the rest; of equals, the strongest wins.

    Args:
        features: (N, D) standardised; this rank's part.
        labels: (N,).
        classes: their number.
        covariance: of the features.

    Returns:
        The L2 strength, its held-out top-1 and its fit, from which a fit on all of train can start.

    Raises:
        EvaluationError: nothing can be held out.
    """
    all_labels = gather_rows(labels.cpu())
    chosen = held_out_rows(all_labels, classes)
    if not chosen.any():
        raise EvaluationError("linear: no class has a second train image, which choosing the L2 strength needs")
    held_out = chosen[part_of(len(all_labels)).rows].to(features.device)
    fitted, fitted_labels = features[~held_out], labels[~held_out]
    unseen, unseen_labels = features[held_out], labels[held_out]
    probe = LogisticRegression(
        weight=features.new_zeros(classes, features.shape[1]), bias=features.new_zeros(classes), converged=False
    )
    best_l2, best_top1, best, since_best = L2_GRID[0], -1.0, probe, 0
    for l2 in L2_GRID:
        probe = fit_logistic(fitted, fitted_labels, l2, probe, covariance, tolerance=_SWEEP_TOLERANCE)
        hits = total((probe.predict(unseen) == unseen_labels).sum())
        top1 = int(hits) / int(chosen.sum())
        if top1 > best_top1:
            best_l2, best_top1, best, since_best = l2, top1, probe, 0
        else:
            since_best += 1
            if since_best == _PATIENCE:
                break
    return best_l2, best_top1, best


def fit_logistic(
    features: Tensor, labels: Tensor, l2: float, start: LogisticRegression, covariance: Tensor, *, tolerance: float
) -> LogisticRegression:
    """Minimise mean cross-entropy + l2/2 · ‖weight‖² by L-BFGS; the bias is free.

    In coordinates in which the Hessian at zero weights, covariance / classes + l2, is the identity. There a gradient of
    norm g is about g²/2 from the optimal objective, whatever the features, and raw pixels (10,000 of CIFAR-10) take 14
    evaluations where plain L-BFGS takes 65 (l2 = 0.1) to 300 (0.001).

    Args:
        features: (N, D) standardised; this rank's part. Sums go over all ranks, so that all find the same optimum.
        labels: (N,).
        l2: strength > 0.
        start: where to begin; zeros will do.
        covariance: of the features; shapes the path, not the optimum.
        tolerance: of the gradient's largest component, in these coordinates.
    """
    classes, samples = len(start.weight), int(total(torch.tensor(len(labels))))
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
        fit = F.cross_entropy(F.linear(features, weight, bias).double(), labels, reduction="sum") / samples
        loss: Tensor = fit + l2 / (2 * world_size()) * weight.double().square().sum()
        loss.backward()
        if world_size() == 1:
            return loss
        gradients = [scaled_bias.grad, whitened.grad]
        summed = total(torch.cat([loss.detach()[None], *(part.flatten() for part in gradients if part is not None)]))
        scaled_bias.grad, of_whitened = summed[1 : 1 + classes], summed[1 + classes :]
        whitened.grad = of_whitened.view_as(whitened)
        return summed[0]

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
    """Second moments of standardised features, (N, D) -> (D, D) float64, from some thousand rows spread over them.

    Every rank takes as many of its part.
    """
    rows = features[:: max(1, world_size() * len(features) // _COVARIANCE_ROWS)].double()
    return total(rows.T @ rows) / int(total(torch.tensor(len(rows))))


def mean_and_std(features: Tensor) -> tuple[Tensor, Tensor]:
    """Of each column over all ranks' rows, (N, D) -> (D,) twice, in float32; no standard deviation is below 1e-6."""
    samples = int(total(torch.tensor(len(features))))
    mean = (total(features.sum(dim=0, dtype=torch.float64)) / samples).float()
    squares = total((features - mean).square().sum(dim=0, dtype=torch.float64))
    return mean, (squares / max(1, samples - 1)).sqrt().float().clamp(min=1e-6)


def _whitening(hessian: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """(D, D) Cholesky factor of hessian + l2, and its inverse, in float64: rounding would outweigh a weak l2."""
    identity = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    factor = torch.linalg.cholesky(hessian + l2 * identity)
    return factor, torch.linalg.solve_triangular(factor, identity, upper=False)
