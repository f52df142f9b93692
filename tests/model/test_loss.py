import math

import numpy as np
import pytest
import rank_functions
import reference
import torch
from rank_pool import RankPool
from torch import Tensor

from model.loss import nt_xent


def projections(rows: int = 12, dim: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("rows", [2, 4, 12])
def test_value_and_gradient_are_equation_1s(rows: int, temperature: float) -> None:
    z = projections(rows).requires_grad_()
    loss = nt_xent(z, temperature)
    loss.backward()
    values = z.detach().numpy()
    assert loss.item() == pytest.approx(reference.nt_xent(values, temperature), rel=1e-12)
    gradient = reference.numeric_gradient(lambda x: reference.nt_xent(x, temperature), values)
    assert z.grad is not None
    assert np.abs(z.grad.numpy() - gradient).max() < 1e-7


@pytest.mark.parametrize("world_size", [2, 4])
def test_value_and_gradient_over_ranks_are_those_of_one_process(
    world_size: int, two_ranks: RankPool, four_ranks: RankPool
) -> None:
    pool = {2: two_ranks, 4: four_ranks}[world_size]
    z = projections(16).requires_grad_()
    whole = nt_xent(z, 0.2)
    whole.backward()
    answers = pool.run(rank_functions.loss_and_gradient, z.detach(), 0.2)
    assert sum(loss for loss, _ in answers) / world_size == pytest.approx(whole.item(), rel=1e-12)
    halves = [gradient.chunk(2) for _, gradient in answers]
    gradient = torch.cat([torch.cat([half[view] for half in halves]) for view in range(2)])
    assert z.grad is not None
    assert torch.allclose(gradient, z.grad, rtol=1e-10, atol=1e-13)


def test_identical_projections_give_the_log_of_the_candidates() -> None:
    assert nt_xent(torch.ones(8, 4), 0.1).item() == pytest.approx(math.log(7))


def test_perfect_pairs_among_orthogonal_images_give_the_closed_form() -> None:
    z = torch.eye(4, dtype=torch.float64).repeat(2, 1)
    assert nt_xent(z, 0.5).item() == pytest.approx(math.log(math.exp(2) + 6) - 2)


def test_swapping_the_views_or_permuting_the_images_changes_nothing() -> None:
    z = projections()
    loss = nt_xent(z, 0.3)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.allclose(nt_xent(z.roll(6, 0), 0.3), loss)
    assert torch.allclose(nt_xent(z[torch.cat([order, order + 6])], 0.3), loss)


def test_the_scale_of_projections_does_not_matter() -> None:
    z = projections()
    assert torch.allclose(nt_xent(z * torch.arange(1.0, 13)[:, None], 0.3), nt_xent(z, 0.3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_loss_is_float32_at_least_even_inside_autocast(dtype: torch.dtype) -> None:
    z = projections().to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(z, 0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference.nt_xent(z.double().numpy(), 0.1), rel=1e-5)


def test_zero_rows_and_tiny_temperatures_stay_finite() -> None:
    z = projections().float()
    z[3] = 0
    z.requires_grad_()
    loss = nt_xent(z, 0.01)
    loss.backward()
    assert z.grad is not None
    assert loss.isfinite()
    assert z.grad.isfinite().all()
