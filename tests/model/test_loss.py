import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import rank_functions
import reference
import reference_losses
import torch
from rank_pool import RankPool
from torch import Tensor
from torch.nn.functional import cross_entropy

from model.loss import _by_rows, _by_tiles, nt_xent
from model.projections import unit_rows
from ops.bench.counting import peak_bytes


def projections(rows: int = 12, dim: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_tiles(z: Tensor, temperature: float) -> Tensor:
    return _by_tiles(unit_rows(z), temperature, tile=5)


def by_rows(z: Tensor, temperature: float) -> Tensor:
    rows = unit_rows(z)
    return _by_rows(rows, rows, temperature, chunk=5)


WAYS = {"chosen": nt_xent, "tiles that do not divide": by_tiles, "chunks that do not divide": by_rows}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("rows", [2, 4, 12, 22])
@pytest.mark.parametrize("way", WAYS)
def test_value_and_gradient_are_those_of_loops(way: str, rows: int, temperature: float, dtype: torch.dtype) -> None:
    z = projections(rows).to(dtype).requires_grad_()
    loss = WAYS[way](z, temperature)
    loss.backward()
    values = z.detach().double().numpy()
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(
        reference.nt_xent(values, temperature), rel=TOLERANCE[dtype], abs=TOLERANCE[dtype]
    )
    gradient = reference_losses.nt_xent_gradient(values, temperature)
    assert z.grad is not None
    assert np.abs(z.grad.numpy() - gradient).max() < TOLERANCE[dtype]


def test_the_loops_gradient_is_that_of_their_value() -> None:
    values = projections(6).numpy()
    numeric = reference.numeric_gradient(lambda x: reference.nt_xent(x, 0.3), values)
    assert np.abs(reference_losses.nt_xent_gradient(values, 0.3) - numeric).max() < 1e-8


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("world_size", [2, 4])
def test_value_and_gradient_over_ranks_are_those_of_loops(
    world_size: int, chunk: int | None, two_ranks: RankPool, four_ranks: RankPool
) -> None:
    pool = {2: two_ranks, 4: four_ranks}[world_size]
    z = projections(16)
    answers = pool.run(rank_functions.loss_and_gradient, z, 0.2, chunk)
    mean = sum(float(loss) for loss, _ in answers) / world_size
    assert mean == pytest.approx(reference.nt_xent(z.numpy(), 0.2), rel=1e-12)
    halves = [gradient.chunk(2) for _, gradient in answers]
    gradient = torch.cat([torch.cat([half[view] for half in halves]) for view in range(2)])
    assert np.abs(gradient.numpy() - reference_losses.nt_xent_gradient(z.numpy(), 0.2)).max() < 1e-10


DECOUPLED = {
    "chosen": lambda z, temperature: nt_xent(z, temperature, decoupled=True),
    "tiles that do not divide": lambda z, temperature: _by_tiles(unit_rows(z), temperature, tile=5, decoupled=True),
    "chunks that do not divide": lambda z, temperature: _by_rows(
        unit_rows(z), unit_rows(z), temperature, chunk=5, decoupled=True
    ),
}


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("rows", [4, 6, 10, 12, 22])
@pytest.mark.parametrize("way", DECOUPLED)
def test_decoupled_value_and_gradient_are_those_of_loops(way: str, rows: int, temperature: float) -> None:
    z = projections(rows).requires_grad_()
    loss = DECOUPLED[way](z, temperature)
    (gradient,) = torch.autograd.grad(loss, z)
    values = z.detach().numpy()
    assert loss.item() == pytest.approx(reference_losses.decoupled(values, temperature), rel=1e-10, abs=1e-10)
    numeric = reference.numeric_gradient(lambda x: reference_losses.decoupled(x, temperature), values)
    assert np.abs(gradient.numpy() - numeric).max() < 1e-6


def test_decoupled_value_and_gradient_over_ranks_are_those_of_one(four_ranks: RankPool) -> None:
    z = projections(16)
    whole = z.clone().requires_grad_()
    loss = nt_xent(whole, 0.2, decoupled=True)
    (expected,) = torch.autograd.grad(loss, whole)
    answers = four_ranks.run(partial(rank_functions.loss_and_gradient, decoupled=True), z, 0.2, 3)
    assert sum(float(part) for part, _ in answers) / 4 == pytest.approx(loss.item(), rel=1e-12)
    halves = [gradient.chunk(2) for _, gradient in answers]
    gradient = torch.cat([torch.cat([half[view] for half in halves]) for view in range(2)])
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_dot_products_that_nothing_bounds_are_compared_without_overflow(scale: float) -> None:
    z = (projections(10) * scale).requires_grad_()
    loss = nt_xent(z, 0.1, l2_normalise=False)
    loss.backward()
    values = z.detach().numpy()
    assert loss.item() == pytest.approx(reference_losses.nt_xent_of_dot_products(values, 0.1), rel=1e-12)
    assert z.grad is not None
    gradient = reference_losses.nt_xent_gradient(values, 0.1, l2_normalise=False)
    assert np.abs(z.grad.numpy() - gradient).max() < 1e-9 * scale


def test_the_gradient_is_scaled_by_what_comes_from_above() -> None:
    z = projections(8).requires_grad_()
    (once,) = torch.autograd.grad(nt_xent(z, 0.2), z)
    (thrice,) = torch.autograd.grad(3 * nt_xent(z, 0.2), z)
    assert torch.allclose(thrice, 3 * once, rtol=1e-12)


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("way", "temperature"),
    [*((way, 0.5) for way in WAYS), ("chosen", 0.01), ("chunks that do not divide", 0.01)],
)
def test_zero_rows_and_tiny_temperatures_stay_finite(way: str, temperature: float, dtype: torch.dtype) -> None:
    z = projections().to(dtype)
    z[3] = 0
    z.requires_grad_()
    loss = WAYS[way](z.float(), temperature)
    loss.backward()
    assert z.grad is not None
    assert loss.isfinite()
    assert z.grad.isfinite().all()


def test_projections_that_are_all_zero_give_the_log_of_the_candidates() -> None:
    z = torch.zeros(8, 4, requires_grad=True)
    loss = nt_xent(z, 0.01)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(7))
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_memory_grows_with_the_batch_and_not_with_its_square() -> None:
    def peak(rows: int, loss: Callable[[Tensor], Tensor]) -> int:
        z = projections(rows, 32).float().requires_grad_()
        return peak_bytes(lambda: torch.autograd.grad(loss(z), z))

    def naive(z: Tensor) -> Tensor:
        similarity = (unit_rows(z) @ unit_rows(z).T).div(0.2).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
        return cross_entropy(similarity, torch.arange(len(z)).roll(len(z) // 2))

    for way in (
        lambda z: _by_tiles(unit_rows(z), 0.2, tile=64),
        lambda z: _by_rows(unit_rows(z), unit_rows(z), 0.2, chunk=64),
    ):
        assert peak(2048, way) < 2.5 * peak(1024, way)
        assert peak(2048, way) < peak(2048, naive) / 8
