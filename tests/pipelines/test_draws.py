import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from pipelines.config import ViewsConfig
from pipelines.draws import Draws, draw_views

MANY = np.arange(10_000)


def draw(
    ids: npt.NDArray[np.int64], *, epoch: int = 0, seed: int = 0, height: int = 375, width: int = 500, **config: float
) -> Draws:
    ones = np.ones_like(ids)
    return draw_views(ViewsConfig(**config), ids, height * ones, width * ones, seed, epoch)


def row_table(draws: Draws) -> Tensor:
    """(2B, 18): each row list as a column of zeros and ones."""
    lists = [*(rows for stage in draws.colour_rows for rows in stage), draws.grayscale_rows, draws.blur_rows]
    table = torch.zeros(len(draws.numbers), len(lists), dtype=torch.int64)
    for column, rows in enumerate(lists):
        table[rows, column] = 1
    return table


def share(rows: Tensor, draws: Draws) -> float:
    return len(rows) / len(draws.numbers)


def test_draws_are_bitwise_the_same_in_any_batch() -> None:
    ids = np.array([5, 99, 3, 1234567, 0, 42])
    whole, parts = draw(ids), [draw(ids[:2]), draw(ids[2:][::-1])]
    first = [torch.cat([part.numbers[: len(part.numbers) // 2] for part in parts])]
    second = [torch.cat([part.numbers[len(part.numbers) // 2 :] for part in parts])]
    back = [0, 1, 5, 4, 3, 2]
    assert torch.equal(whole.numbers, torch.cat([first[0][back], second[0][back]]))
    tables = [row_table(part) for part in parts]
    halves = [torch.cat([t[: len(t) // 2] for t in tables]), torch.cat([t[len(t) // 2 :] for t in tables])]
    assert torch.equal(row_table(whole), torch.cat([halves[0][back], halves[1][back]]))


def test_seed_epoch_sample_and_view_all_change_the_draws() -> None:
    ids = np.array([7])
    base = draw(ids).numbers
    for other in (draw(ids, seed=1), draw(ids, epoch=1), draw(ids + 1)):
        assert not torch.equal(base, other.numbers)
    assert not torch.equal(base[0], base[1])


def test_views_of_one_image_and_of_neighbours_are_uncorrelated() -> None:
    u = draw(MANY).factors[:, 0].double().view(2, -1)
    assert abs(torch.corrcoef(u)[0, 1]) < 0.04
    assert abs(torch.corrcoef(torch.stack([u[0, 1:], u[0, :-1]]))[0, 1]) < 0.04
    assert abs(torch.corrcoef(torch.stack([u[0], draw(MANY, epoch=1).factors[: len(MANY), 0].double()]))[0, 1]) < 0.04


def test_probabilities_and_ranges_are_the_papers() -> None:
    draws = draw(MANY)
    n = math.sqrt(0.25 / len(draws.numbers))  # standard deviation of a share, at most
    for operation in range(4):
        rows = torch.cat([stage[operation] for stage in draws.colour_rows])
        assert len(rows) == len(rows.unique())
        assert share(rows, draws) == pytest.approx(0.8, abs=5 * n)
        for stage in range(4):  # every operation is equally often at every place
            assert share(draws.colour_rows[stage][operation], draws) == pytest.approx(0.2, abs=5 * n)
    assert share(draws.grayscale_rows, draws) == pytest.approx(0.2, abs=5 * n)
    assert share(draws.blur_rows, draws) == pytest.approx(0.5, abs=5 * n)
    assert draws.flip.mean().item() == pytest.approx(0.5, abs=5 * n)
    factors = draws.factors
    assert factors[:, :3].min() == pytest.approx(0.2, abs=1e-3)
    assert factors[:, :3].max() == pytest.approx(1.8, abs=1e-3)
    assert factors[:, 3].min() == pytest.approx(-0.2, abs=1e-3)
    assert factors[:, 3].max() == pytest.approx(0.2, abs=1e-3)
    assert 0.1 <= draws.sigma.min() < 0.11
    assert 1.99 < draws.sigma.max() <= 2


def test_strength_scales_the_jitter_and_zero_turns_it_off() -> None:
    half = draw(MANY, jitter_strength=0.5).factors
    assert half[:, 0].min() == pytest.approx(0.6, abs=1e-3)
    assert half[:, 3].max() == pytest.approx(0.1, abs=1e-3)
    assert not any(len(rows) for stage in draw(MANY, jitter_strength=0.0).colour_rows for rows in stage)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (32, 32), (40, 400)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    shares = draw(MANY, height=height, width=width).box.double().numpy()
    ours = (shares * [height, width, height, width]).round()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(20_000)])
    for column in range(4):
        assert kolmogorov_smirnov(ours[:, column], theirs[:, column]) < 0.0195  # p = 0.001 for 20,000 each
    assert kolmogorov_smirnov(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]) < 0.0195
    assert (ours[:, 0] + ours[:, 2]).max() <= height
    assert (ours[:, 1] + ours[:, 3]).max() <= width


def kolmogorov_smirnov(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Largest difference between two empirical distributions."""
    values = np.union1d(a, b)
    below = [np.searchsorted(np.sort(x), values, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def test_moving_to_a_device_keeps_every_draw() -> None:
    draws = draw(np.arange(10))
    moved = draws.to(torch.device("cpu"))
    assert torch.equal(moved.numbers, draws.numbers)
    assert torch.equal(row_table(moved), row_table(draws))
