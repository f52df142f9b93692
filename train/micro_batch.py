"""Gradient caching (Gao et al. 2021, arXiv 2101.06983): the update of any batch in the memory of a small one."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model.running_statistics import frozen_statistics

if TYPE_CHECKING:
    from accelerate import Accelerator


def backward_in_micro_batches(
    accelerator: "Accelerator",
    model: nn.Module,
    views: Tensor,
    micro_batch: int,
    loss_of: Callable[[Tensor], Tensor],
    scale: float,
    during_backward: Callable[[], AbstractContextManager[None]],
) -> tuple[Tensor, Tensor, Tensor]:
    """Add to the parameters' gradients that of the loss over the global batch.

    First without graph: the projections of all micro-batches, the loss of the whole, its gradient in each projection.
    Then with graph: each micro-batch again, and backward from its projections' gradients. Both passes see
    the same views and, for dropout and stochastic depth, the same random numbers. BatchNorm normalises by the
    micro-batch's own statistics, which enter the running ones in the second pass only. Ranks reduce their gradients
    once, at the last micro-batch.

    Args:
        accelerator: that prepared the model.
        model: views -> (z, h).
        views: (2B, 3, s, s) of this rank; rows i and i+B are a pair.
        micro_batch: images per pass; the last may have fewer.
        loss_of: (2B, D) projections -> scalar.
        scale: multiplies the gradient, not the loss that is returned.
        during_backward: makes the context of each backward.

    Returns:
        The loss, z (2B, D) and h (2B, F), without graph.
    """
    first_view, second_view = views.chunk(2)
    parts = [slice(start, start + micro_batch) for start in range(0, len(first_view), micro_batch)]
    states, outputs = [], []
    with torch.no_grad(), frozen_statistics(model):
        for part in parts:
            states.append(_random_state(views.device))
            outputs.append(model(torch.cat([first_view[part], second_view[part]])))
    z, h = (_join(pieces) for pieces in zip(*outputs, strict=True))
    z.requires_grad_()
    loss = loss_of(z)
    accelerator.backward(loss * scale)
    first_gradient, second_gradient = z.grad.chunk(2)  # type: ignore[union-attr]  # backward has just made it
    for part, state in zip(parts, states, strict=True):
        reduction = nullcontext() if part is parts[-1] else accelerator.no_sync(model)
        with reduction, _random_numbers_from(state, views.device):
            again, _ = model(torch.cat([first_view[part], second_view[part]]))
            with during_backward():
                again.backward(torch.cat([first_gradient[part], second_gradient[part]]))
    return loss.detach(), z.detach(), h


def _join(pieces: tuple[Tensor, ...]) -> Tensor:
    """Micro-batches of two halves each -> all first views, then all second ones."""
    halves = [piece.chunk(2) for piece in pieces]
    return torch.cat([*(first for first, _ in halves), *(second for _, second in halves)])


def _random_state(device: torch.device) -> tuple[Tensor, ...]:
    """Of the generators that dropout draws from; CUDA's is kept on the host, so that nothing waits."""
    return (torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else []))


@contextmanager
def _random_numbers_from(state: tuple[Tensor, ...], device: torch.device) -> Generator[None, None, None]:
    """Draw again what was drawn from this state; afterwards the generators are where they were."""
    now = _random_state(device)
    _set_random_state(state, device)
    try:
        yield
    finally:
        _set_random_state(now, device)


def _set_random_state(state: tuple[Tensor, ...], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
