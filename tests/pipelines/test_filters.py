from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import reference_views
import torch
from torch import Tensor
from view_cases import NOTHING, canvases, drawn

from pipelines.config import ViewsConfig
from pipelines.draws import Draws
from pipelines.filters import CUTOUT_GRAY, add_noise_, blur_, cut_out_, rotate_, sobel_
from pipelines.plan import plan_views


def plain(images: int, **changes: Any) -> Draws:
    """Draws of nothing, changed."""
    return replace(drawn(ViewsConfig(reference="torchvision", **NOTHING), np.arange(images), side=(32, 32)), **changes)


def pixels(images: int, side: int) -> Tensor:
    return canvases(images, side).float().contiguous() / 255


@pytest.mark.parametrize("zero_border", [True, False])
@pytest.mark.parametrize("size", [24, 60, 224])
def test_blur_is_a_convolution_with_each_views_sigma(size: int, zero_border: bool) -> None:
    blur, sigma = np.array([True, False, True, True]), np.array([0.1, 1.0, 0.7, 2.0])
    plan = plan_views(ViewsConfig(size=size), plain(2, blur=blur, sigma=sigma), canvas=size)
    views = pixels(4, size)
    before = views.clone()
    blur_(views, plan, zero_border=zero_border)
    assert torch.equal(views[1], before[1])
    rows = slice(0, 30) if size == 224 else slice(None)  # the reference is slow; the top shows the border, too
    for row in (0, 2, 3):
        image = before[row].double().permute(1, 2, 0).numpy()
        border: Literal["zero", "reflect"] = "zero" if zero_border else "reflect"
        taps = 2 * (size // 10 // 2) + 1
        strip = image[:60] if size == 224 else image
        expected = reference_views.gaussian_blur(strip, sigma[row], taps, border)
        assert np.abs(views[row].permute(1, 2, 0).numpy()[rows] - expected[rows]).max() < 2e-6


def test_rotation_is_by_quarter_turns_to_the_left() -> None:
    views = pixels(4, 24)
    before = views.clone()
    plan = plan_views(ViewsConfig(size=24), plain(2, quarter_turns=np.array([0, 1, 2, 3])), canvas=32)
    rotate_(views, plan)
    for turns in range(4):
        assert torch.equal(views[turns], torch.from_numpy(np.rot90(before[turns].numpy(), turns, (1, 2)).copy()))


def test_sobel_is_the_magnitude_of_the_gradient() -> None:
    views = pixels(2, 24)
    before = views.clone()
    sobel_(views, plan_views(ViewsConfig(size=24), plain(1, sobel=np.array([True, False])), canvas=32))
    normalised = reference_views.sobel_magnitude(before[0].double().permute(1, 2, 0).numpy())
    expected = np.sqrt(64 * (normalised**2 - 1e-6) + 1e-6).clip(0, 1)  # 1e-6: Kornia's guard of the root
    assert np.abs(views[0].permute(1, 2, 0).numpy() - expected).max() < 1e-5
    assert torch.equal(views[1], before[1])


def noise(keys: list[int], std: float, side: int = 96) -> Tensor:
    views = torch.full((len(keys), 3, side, side), 0.5)
    every = np.ones(len(keys), dtype=bool)
    changes = {"noise": every, "noise_std": np.full(len(keys), std), "noise_key": np.array(keys)}
    add_noise_(views, plan_views(ViewsConfig(size=side), plain(len(keys) // 2, **changes), canvas=side))
    return views - 0.5


def test_noise_is_normal_independent_and_a_function_of_its_key() -> None:
    from scipy.stats import kstest

    a, b, again, other = noise([7, 8, 7, 123456789], std=0.05)
    assert torch.equal(a, again)
    assert kstest(a.flatten().double().numpy() / 0.05, "norm").pvalue > 1e-3
    for pair in ((a, b), (a, other), (a[:, :, 1:], a[:, :, :-1]), (a[:, 1:], a[:, :-1]), (a[1:], a[:-1])):
        correlation = torch.corrcoef(torch.stack([half.flatten() for half in pair]))[0, 1]
        assert abs(correlation) < 5 / a.numel() ** 0.5
    assert torch.equal(noise([3, 7], std=0.05)[1], a)


def test_noise_is_clipped_to_the_range_of_pixels() -> None:
    strong = noise([1, 2], std=2.0) + 0.5
    assert strong.min() == 0
    assert strong.max() == 1


def test_cutout_hides_a_square_that_may_stick_out() -> None:
    views = torch.zeros(4, 3, 40, 40)
    centres = np.array([[0.5, 0.5], [0.0, 0.5], [1.0, 1.0], [0.5, 0.5]])
    cutout = np.array([True, True, True, False])
    draws = plain(2, cutout=cutout, cutout_centre=centres)
    cut_out_(views, plan_views(ViewsConfig(size=40), draws, canvas=40), side=0.5)
    hidden = views == CUTOUT_GRAY
    assert hidden[0, :, 10:30, 10:30].all()
    assert hidden.flatten(1).sum(dim=1).tolist() == [3 * 400, 3 * 200, 3 * 100, 0]
    assert hidden[1, :, :10, 10:30].all()
    assert hidden[2, :, 30:, 30:].all()
