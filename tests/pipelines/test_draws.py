import math
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import chi2, ks_2samp
from torchvision.transforms import RandomResizedCrop

from pipelines.config import ViewsConfig
from pipelines.draws import Draws, draw_views
from pipelines.hashing import hash64, uniform

MANY = np.arange(10_000)
EVERYTHING = ("crop", "flip", "rotation", "jitter", "grayscale", "blur", "sobel", "noise", "cutout")
STUDY: dict[str, Any] = {f"{name}_probability": 0.3 for name in ("rotation", "sobel", "noise", "cutout")}


def draw(
    ids: npt.NDArray[np.int64],
    *,
    epoch: int = 0,
    seed: int = 0,
    step: int = 0,
    height: int = 375,
    width: int = 500,
    **config: Any,
) -> Draws:
    ones = np.ones_like(ids)
    return draw_views(ViewsConfig(**config), ids, height * ones, width * ones, seed, epoch, step)


def assert_same(a: Draws, b: Draws) -> None:
    for field in fields(Draws):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


@pytest.mark.parametrize("reference", ["paper", "torchvision"])
def test_draws_are_bitwise_the_same_in_any_batch(reference: str) -> None:
    ids = np.array([5, 99, 3, 1234567, 0, 42])
    whole = draw(ids, reference=reference, **STUDY)
    for places in ([0, 1], [5, 4, 3, 2], [3]):
        part = draw(ids[places], reference=reference, **STUDY)
        assert_same(part, whole.take(np.array(places + [place + len(ids) for place in places])))


@pytest.mark.parametrize("reference", ["paper", "torchvision"])
def test_seed_epoch_sample_and_view_all_change_the_draws(reference: str) -> None:
    ids = np.array([7])
    base = draw(ids, reference=reference)
    for other in (
        draw(ids, seed=1, reference=reference),
        draw(ids, epoch=1, reference=reference),
        draw(ids + 1, reference=reference),
        base.take(np.array([1, 0])),
    ):
        assert (base.box != other.box).any()
        assert (base.factors != other.factors).all()
        assert (base.sigma != other.sigma).all()


def test_the_hash_is_uniform_and_neighbours_are_independent() -> None:
    """Chi-square over cells of single draws, and of pairs: of neighbouring ids, views, epochs, seeds and draws."""
    u = uniform(hash64(3, np.arange(2)[:, None, None, None], np.arange(3)[:, None, None], MANY[:, None], np.arange(20)))
    pairs = {  # (seed, epoch, id, draw), each beside its neighbour
        "seeds": (u[0], u[1]),
        "epochs": (u[:, 0], u[:, 1]),
        "ids": (u[:, :, :-1], u[:, :, 1:]),
        "draws": (u[..., :-1], u[..., 1:]),
    }
    for draws in range(20):
        assert chi_square(np.floor(u[0, 0, :, draws] * 100), 100) < chi2.ppf(1 - 1e-5, 99)
    for name, (a, b) in pairs.items():
        cells = np.floor(a * 16) * 16 + np.floor(b * 16)
        assert chi_square(cells, 256) < chi2.ppf(1 - 1e-5, 255), name
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / math.sqrt(a.size), name


def chi_square(cells: npt.NDArray[Any], count: int) -> float:
    observed = np.bincount(cells.astype(np.int64).ravel(), minlength=count)
    expected = cells.size / count
    return float(((observed - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("reference", ["paper", "torchvision"])
def test_the_two_views_of_an_image_are_independent(reference: str) -> None:
    draws = draw(MANY, reference=reference)
    area = draws.box[:, 2] * draws.box[:, 3]
    for numbers in (area, draws.box[:, 0], draws.factors[:, 0], draws.sigma, draws.flip.astype(float)):
        first, second = numbers.reshape(2, -1)
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(len(MANY))


def test_probabilities_and_ranges_are_the_papers() -> None:
    draws = draw(MANY)
    tolerance = 5 * math.sqrt(0.25 / len(draws))
    for drawn, probability in ((draws.flip, 0.5), (draws.jitter, 0.8), (draws.grayscale, 0.2), (draws.blur, 0.5)):
        assert drawn.mean() == pytest.approx(probability, abs=tolerance)
    # Grayscale is drawn whether or not colour was jittered.
    assert draws.grayscale[draws.jitter].mean() == pytest.approx(0.2, abs=2 * tolerance)
    assert draws.grayscale[~draws.jitter].mean() == pytest.approx(0.2, abs=3 * tolerance)
    for numbers, low, high in (
        *((draws.factors[:, operation], 0.2, 1.8) for operation in range(3)),
        (draws.factors[:, 3], -0.2, 0.2),
        (draws.sigma, 0.1, 2.0),
    ):
        share = (numbers - low) / (high - low)
        assert 0 <= share.min() < share.max() < 1
        assert chi_square(np.floor(share * 50), 50) < chi2.ppf(1 - 1e-5, 49)
    for operation in (draws.quarter_turns > 0, draws.sobel, draws.noise, draws.cutout):
        assert not operation.any()


def test_each_of_the_24_orders_of_colour_is_equally_frequent() -> None:
    order = draw(MANY).order
    assert (np.sort(order, axis=1) == np.arange(4)).all()
    number = (order * [64, 16, 4, 1]).sum(axis=1)
    _, counts = np.unique(number, return_counts=True)
    assert len(counts) == 24
    expected = len(order) / 24
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-5, 23)


def test_one_order_for_a_batch_is_one_for_all_its_views_and_another_for_the_next() -> None:
    ids = MANY[:100]
    orders = [draw(ids, jitter_order="batch", step=step).order for step in range(40)]
    assert all((order == order[0]).all() for order in orders)
    assert len({tuple(order[0]) for order in orders}) > 12
    np.testing.assert_array_equal(orders[3], draw(ids + 500, jitter_order="batch", step=3).order)  # of another rank


def test_strength_scales_the_jitter_and_zero_turns_it_off() -> None:
    half = draw(MANY, jitter_strength=0.5).factors
    assert half[:, 0].min() == pytest.approx(0.6, abs=1e-3)
    assert half[:, 3].max() == pytest.approx(0.1, abs=1e-3)
    assert not draw(MANY, jitter_strength=0.0).jitter.any()


def test_the_studys_operations_have_their_probabilities_and_ranges() -> None:
    draws = draw(MANY, noise_max=0.3, **STUDY)
    tolerance = 5 * math.sqrt(0.21 / len(draws))
    for operation in (draws.quarter_turns > 0, draws.sobel, draws.noise, draws.cutout):
        assert operation.mean() == pytest.approx(0.3, abs=tolerance)
    turns = draws.quarter_turns[draws.quarter_turns > 0]
    assert chi_square(turns - 1.0, 3) < chi2.ppf(1 - 1e-5, 2)
    assert 0.29 < draws.noise_std.max() < 0.3
    assert len(np.unique(draws.noise_key)) > 0.999 * len(draws)
    assert draws.cutout_centre.min() < 0.001
    assert draws.cutout_centre.max() > 0.999


def test_the_studys_operations_leave_all_other_draws_alone() -> None:
    plain, study = draw(MANY[:50]), draw(MANY[:50], **STUDY)
    for name in ("box", "flip", "jitter", "order", "factors", "grayscale", "blur", "sigma"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(study, name))


def test_the_second_view_can_be_spared_any_operation() -> None:
    both, spared = draw(MANY[:200], **STUDY), draw(MANY[:200], first_view_only=EVERYTHING, **STUDY)
    second = np.arange(200, 400)
    assert_same(both.take(second - 200), spared.take(second - 200))
    view = spared.take(second)
    assert (view.box == [0, 0, 1, 1]).all()
    for operation in (view.flip, view.jitter, view.grayscale, view.blur, view.sobel, view.noise, view.cutout):
        assert not operation.any()
    assert not view.quarter_turns.any()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (32, 32), (40, 400)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    ours = draw(MANY, height=height, width=width, reference="torchvision").box * [height, width, height, width]
    np.testing.assert_allclose(ours, ours.round(), atol=1e-9)  # whole pixels
    ours = ours.round()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(20_000)])
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column], method="asymp").pvalue > 1e-3
    areas = [boxes[:, 2] * boxes[:, 3] for boxes in (ours, theirs)]
    aspects = [boxes[:, 3] / boxes[:, 2] for boxes in (ours, theirs)]
    for a, b in (areas, aspects):
        assert ks_2samp(a, b, method="asymp").pvalue > 1e-3
    assert (ours[:, 0] + ours[:, 2]).max() <= height
    assert (ours[:, 1] + ours[:, 3]).max() <= width


def test_crops_of_a_large_square_have_the_papers_closed_form() -> None:
    """Aspect a is uniform, and so is the height between sqrt(0.08 / a) and the largest that fits; less than a tenth of
    the image is not accepted."""
    side = 20_000
    box = draw(MANY, height=side, width=side, reference="paper").box
    aspect = box[:, 3] / box[:, 2]
    least, most = np.sqrt(0.08 / aspect), np.minimum(1, 1 / aspect)
    accepted = np.maximum(np.sqrt(0.1 / aspect), least)
    # Given its aspect, a height is uniform from the least accepted to the most.
    share = (box[:, 2] - accepted) / (most - accepted)
    assert share.min() > -1e-3
    assert share.max() < 1 + 1e-3
    assert chi_square(np.floor(share.clip(0, 1 - 1e-9) * 50), 50) < chi2.ppf(1 - 1e-5, 49)
    # An aspect is as likely as it is accepted.
    grid = np.linspace(3 / 4, 4 / 3, 20_001)
    lowest, highest = np.sqrt(0.08 / grid), np.minimum(1, 1 / grid)
    weight = (highest - np.sqrt(0.1 / grid)) / (highest - lowest)
    expected = np.interp(aspect, grid, np.cumsum(weight) / weight.sum())
    assert chi_square(np.floor(expected.clip(0, 1 - 1e-9) * 50), 50) < chi2.ppf(1 - 1e-5, 49)
    # Position: uniform over what is left.
    free = 1 - box[:, 2:]
    for axis in range(2):
        place = box[:, axis][free[:, axis] > 0.05] / free[:, axis][free[:, axis] > 0.05]
        assert chi_square(np.floor(place.clip(0, 1 - 1e-9) * 50), 50) < chi2.ppf(1 - 1e-5, 49)
