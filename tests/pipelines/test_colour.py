"""Each colour operation, alone and in its order, against torchvision, TensorFlow's numbers and float64 formulas."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import reference_views
import torch
import torchvision.transforms.v2.functional as torchvision
from torch import Tensor
from view_cases import NOTHING, STUDY, canvases, drawn, planned, views_of

from pipelines.augment import TwoViews
from pipelines.colour import change_all_colours, change_colours_
from pipelines.config import ViewsConfig
from pipelines.draws import COLOUR_OPERATIONS, Draws
from pipelines.plan import plan_views

Reference = Literal["paper", "torchvision"]
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "paper_views.json").read_text())
FACTORS = {"brightness": 1.8, "contrast": 1.6, "saturation": 1.7, "hue": 0.17}
TORCHVISION: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": torchvision.adjust_brightness,
    "contrast": torchvision.adjust_contrast,
    "saturation": torchvision.adjust_saturation,
    "hue": torchvision.adjust_hue,
}
PAPER: dict[str, Callable[[Any, float], npt.NDArray[np.float64]]] = {
    "brightness": reference_views.paper_brightness,
    "contrast": reference_views.paper_contrast,
    "saturation": reference_views.paper_saturation,
    "hue": reference_views.paper_hue,
}
NEUTRAL = np.array([1.0, 1.0, 1.0, 0.0])


def jitters(orders: list[tuple[int, ...]], factors: npt.NDArray[np.float64]) -> Draws:
    """Draws of one image for each order, whose second view is as the first and whose colours alone change."""
    config = ViewsConfig(reference="torchvision", **NOTHING)
    draws = drawn(config, np.arange(len(orders)), side=(32, 32))
    every = np.ones(len(draws), dtype=bool)
    return replace(draws, jitter=every, order=np.tile(orders, (2, 1)), factors=np.tile(factors, (2, 1)))


def coloured(images: Tensor, draws: Draws, config: ViewsConfig) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> the same with changed colours."""
    views = images.repeat(2, 1, 1, 1)
    change_colours_(views, plan_views(config, draws, canvas=32), paper=config.reference == "paper")
    return views[: len(images)]


def pixels() -> Tensor:
    return canvases(24).float().contiguous() / 255


@pytest.mark.parametrize("name", COLOUR_OPERATIONS)
@pytest.mark.parametrize("share", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_each_operation_is_torchvisions(name: str, share: float) -> None:
    images, column = pixels(), COLOUR_OPERATIONS.index(name)
    factors = np.tile(NEUTRAL, (24, 1))
    factors[:, column] = 0.2 * share if name == "hue" else 1 + 0.8 * share
    order = [(column, *(other for other in range(4) if other != column))] * 24
    ours = coloured(images, jitters(order, factors), ViewsConfig(size=32, reference="torchvision"))
    expected = torch.stack([TORCHVISION[name](image, factors[0, column]) for image in images])
    # torchvision weighs red by 0.2989, Kornia and we by 0.299.
    assert (ours - expected).abs().max() < (1e-4 if name in ("contrast", "saturation") else 5e-6)


@pytest.mark.parametrize("reference", ["paper", "torchvision"])
def test_operations_come_in_the_order_of_each_view(reference: Reference) -> None:
    """All 24 orders in one batch, against one image after the other."""
    images, orders = pixels(), list(permutations(range(4)))
    factors = np.array([[FACTORS[name] for name in COLOUR_OPERATIONS]] * 24)
    ours = coloured(images, jitters(orders, factors), ViewsConfig(size=32, reference=reference))
    for view, image, order in zip(ours, images, orders, strict=True):
        expected: Any = image if reference == "torchvision" else image.double().permute(1, 2, 0).numpy()
        for operation in order:
            name = COLOUR_OPERATIONS[operation]
            if reference == "torchvision":
                expected = TORCHVISION[name](expected, FACTORS[name])
            else:
                expected = PAPER[name](expected, FACTORS[name])
        if reference == "paper":
            assert np.abs(view.permute(1, 2, 0).numpy() - expected).max() < 1e-4
        else:
            assert (view - expected).abs().max() < 4e-4  # red weighs 0.2989 there


@pytest.mark.parametrize("name", COLOUR_OPERATIONS)
def test_each_operation_of_the_paper_is_tensorflows(name: str) -> None:
    column = COLOUR_OPERATIONS.index(name)
    order = [(column, *(other for other in range(4) if other != column))]
    for case in GOLDEN[name]:
        image = torch.tensor(GOLDEN["images"][case["image"]], dtype=torch.float32).permute(2, 0, 1)[None].contiguous()
        factors = NEUTRAL.copy()[None]
        factors[0, column] = case["factor"]
        ours = coloured(image, jitters(order, factors), ViewsConfig(size=32, reference="paper"))
        expected = torch.tensor(case["output"], dtype=torch.float32).permute(2, 0, 1)
        assert (ours[0] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("reference", ["paper", "torchvision"])
def test_views_that_are_not_jittered_or_gray_keep_every_bit(reference: Reference) -> None:
    config = ViewsConfig(size=32, reference=reference)
    draws = drawn(config, np.arange(64))
    views = canvases(64).float().contiguous().div_(255).repeat(2, 1, 1, 1)
    before = views.clone()
    change_colours_(views, plan_views(config, draws, canvas=32), paper=reference == "paper")
    untouched = ~(draws.jitter | draws.grayscale)
    assert untouched.sum() > 5
    assert torch.equal(views[untouched], before[untouched])
    gray = views[draws.grayscale]
    assert torch.equal(gray[:, 0], gray[:, 1])
    assert torch.equal(gray[:, 0], gray[:, 2])
    weights = (0.2989, 0.587, 0.114) if reference == "paper" else (0.299, 0.587, 0.114)
    only_gray = draws.grayscale & ~draws.jitter
    expected = (before[only_gray] * torch.tensor(weights).view(1, 3, 1, 1)).sum(dim=1)
    torch.testing.assert_close(views[only_gray][:, 0], expected)


@pytest.mark.parametrize("reference", ["paper", "torchvision"])
def test_the_form_for_a_compiler_gives_the_same_colours(reference: Reference) -> None:
    config = ViewsConfig(size=32, reference=reference)
    plan = plan_views(config, drawn(config, np.arange(48)), canvas=32)
    views = pixels().repeat(4, 1, 1, 1)
    whole = change_all_colours(views.clone(), plan.numbers, paper=reference == "paper")
    change_colours_(views, plan, paper=reference == "paper")
    assert (whole - views).abs().max() < 1e-5


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on the CPU")
def test_compiled_views_are_the_same_and_one_graph_serves_every_batch() -> None:
    config = ViewsConfig(size=32, **STUDY)
    compiled = TwoViews(replace(config, compile=True))
    images = canvases(16)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for epoch in range(4):
            plan = planned(config, images, epoch=epoch)
            difference = compiled(images, plan) - views_of(config, images, epoch=epoch)
            assert difference.abs().max() < 1e-5
