import numpy as np
import torch
from view_cases import STUDY, drawn

from pipelines.config import ViewsConfig
from pipelines.draws import COLOUR_OPERATIONS
from pipelines.plan import blur_radius, narrow_radius, plan_views


def test_moving_to_a_device_keeps_every_number_and_row() -> None:
    config = ViewsConfig(engine="kornia", **STUDY)
    plan = plan_views(config, drawn(config, np.arange(20)), canvas=256)
    moved = plan.to(torch.device("cpu"))
    assert torch.equal(moved.numbers, plan.numbers)
    assert moved.hue_later == plan.hue_later
    assert list(moved.rows) == list(plan.rows)
    for name, rows in plan.rows.items():
        assert torch.equal(moved.rows[name], rows), name


def test_rows_whose_hue_changes_later_stand_first() -> None:
    config = ViewsConfig()
    draws = drawn(config, np.arange(200))
    plan = plan_views(config, draws, canvas=256)
    rows = plan.rows["jitter"].numpy()
    assert sorted(rows) == np.flatnonzero(draws.jitter).tolist()
    place_of_hue = np.argmax(draws.order[rows] == COLOUR_OPERATIONS.index("hue"), axis=1)
    assert (np.diff(place_of_hue) <= 0).all()
    assert plan.hue_later == tuple((place_of_hue > j).sum() for j in range(3))


def test_rows_are_those_that_are_drawn() -> None:
    config = ViewsConfig(**STUDY)
    draws = drawn(config, np.arange(100))
    plan = plan_views(config, draws, canvas=256)
    for name, mask in (("grayscale", draws.grayscale), ("sobel", draws.sobel), ("cutout", draws.cutout)):
        assert plan.rows[name].tolist() == np.flatnonzero(mask).tolist()
    assert plan.rows["turn 3"].tolist() == np.flatnonzero(draws.quarter_turns == 3).tolist()
    narrow, wide = plan.rows["blur narrow"].tolist(), plan.rows["blur wide"].tolist()
    assert sorted(narrow + wide) == np.flatnonzero(draws.blur).tolist()
    assert draws.sigma[narrow].max() < draws.sigma[wide].min()
    assert plan.rows["noise key"].tolist() == draws.noise_key[draws.noise].tolist()
    shrunk = plan.rows["shrink"].tolist()
    assert shrunk == [row for row, box in enumerate(draws.box) if max(box[2:]) * 256 > 224]
    assert 0 < len(shrunk) < len(draws)


def test_the_blur_kernel_is_a_tenth_of_the_view_forced_odd() -> None:
    assert {size: 2 * blur_radius(size) + 1 for size in (8, 32, 96, 224)} == {8: 1, 32: 3, 96: 9, 224: 23}
    assert {size: narrow_radius(size) for size in (32, 96, 224)} == {32: 0, 96: 0, 224: 5}
