import learning_on_ranks
import pytest
import reference_health
import torch
from rank_pool import RankPool
from torch import Tensor

from model.health import health

WHOLE, FIVE_ROWS = 2**26, 5 * 24 * 8


def batch(images: int = 12, dim: int = 6, features: int = 9) -> tuple[Tensor, Tensor]:
    """Pairs that are nearer than chance; float64."""
    generator = torch.Generator().manual_seed(0)
    first, noise = torch.randn(2, images, dim, dtype=torch.float64, generator=generator)
    h = torch.rand(2 * images, features, dtype=torch.float64, generator=generator)
    return torch.cat([first, first + 0.6 * noise]), h


@pytest.mark.parametrize("chunk_bytes", [WHOLE, FIVE_ROWS])
def test_numbers_are_those_of_loops(chunk_bytes: int) -> None:
    z, h = batch()
    wanted = reference_health.health(z.numpy(), h.numpy())
    got = {name: float(value) for name, value in health(z, h, chunk_bytes).items()}
    assert 0 < wanted["contrastive_top1"] < 1
    assert got == pytest.approx(wanted, rel=1e-9)


def test_fewer_rows_than_dimensions_have_no_more_singular_values_than_rows() -> None:
    z = torch.randn(8, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = reference_health.health(z.numpy(), z.numpy())["effective_rank"]
    assert float(health(z, z)["effective_rank"]) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("world_size", [2, 4])
def test_numbers_over_ranks_are_those_of_one_process(
    world_size: int, two_ranks: RankPool, four_ranks: RankPool
) -> None:
    z, h = batch()
    alone = {name: float(value) for name, value in health(z, h).items()}
    for answer in {2: two_ranks, 4: four_ranks}[world_size].run(learning_on_ranks.health_of_ranks, z, h, FIVE_ROWS):
        assert answer == pytest.approx(alone, rel=1e-10)


def test_a_collapsed_batch_looks_collapsed() -> None:
    got = health(torch.full((8, 4), 3.0), torch.full((8, 5), 2.0))
    assert float(got["alignment"]) == pytest.approx(0, abs=1e-6)
    assert float(got["uniformity"]) == pytest.approx(0, abs=1e-6)
    assert float(got["contrastive_top1"]) == 0
    assert float(got["effective_rank"]) == pytest.approx(1, abs=1e-4)
    assert float(got["feature_std"]) == pytest.approx(0, abs=1e-3)


def test_perfect_pairs_among_orthogonal_images_are_aligned_and_of_full_rank() -> None:
    z = torch.eye(4).repeat(2, 1)
    got = health(z, torch.randn(8, 5, generator=torch.Generator().manual_seed(0)))
    assert float(got["alignment"]) == 0
    assert float(got["positive_similarity"]) == 1
    assert float(got["negative_similarity"]) == 0
    assert float(got["contrastive_top1"]) == 1
    assert float(got["effective_rank"]) == pytest.approx(4, rel=1e-4)


def test_directions_spread_evenly_have_feature_deviation_1() -> None:
    h = torch.randn(1000, 32, generator=torch.Generator().manual_seed(0))
    assert float(health(h, h)["feature_std"]) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_zero_rows_and_low_precision_give_finite_numbers(dtype: torch.dtype) -> None:
    z, h = (tensor.to(dtype) for tensor in batch())
    z[2] = h[3] = 0
    assert all(value.isfinite() for value in health(z, h).values())
    assert all(value.isfinite() for value in health(torch.zeros_like(z), torch.zeros_like(h)).values())
