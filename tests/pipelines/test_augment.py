from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from view_cases import NOTHING, STUDY, canvases, drawn, planned, views_of

from ops.bench.counting import dispatches, peak_bytes
from pipelines.augment import TwoViews
from pipelines.config import ViewsConfig
from pipelines.plan import plan_views

Reference = Literal["paper", "torchvision"]
REFERENCES: tuple[Reference, ...] = ("paper", "torchvision")


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize(("size", "side"), [(32, 32), (224, 256)])
@pytest.mark.parametrize("order", ["sample", "batch"])
def test_the_lean_engine_is_the_plain_reading_in_kornia(
    reference: Reference, size: int, side: int, order: Literal["sample", "batch"]
) -> None:
    lean = ViewsConfig(size=size, reference=reference, jitter_order=order, **STUDY)
    images = canvases(48 if size == 32 else 8, side=side)
    difference = views_of(lean, images) - views_of(replace(lean, engine="kornia"), images)
    assert difference.abs().max() < 5e-5


@pytest.mark.parametrize("reference", REFERENCES)
def test_views_are_two_per_image_in_range_and_different(reference: Reference) -> None:
    views = views_of(ViewsConfig(size=24, reference=reference), canvases())
    assert views.shape == (16, 3, 24, 24)
    assert views.dtype == torch.float32
    assert views.min() >= 0
    assert views.max() <= 1
    assert (views[:8] - views[8:]).abs().amax(dim=(1, 2, 3)).min() > 0.01


@pytest.mark.parametrize("engine", ["lean", "kornia"])
@pytest.mark.parametrize("reference", REFERENCES)
def test_a_view_does_not_depend_on_its_batch(reference: Reference, engine: Literal["lean", "kornia"]) -> None:
    config = ViewsConfig(size=32, reference=reference, engine=engine, **STUDY)
    images = canvases(16)
    whole = views_of(config, images)
    for places in ([4, 2, 11], [15], list(range(15, -1, -1))):
        draws = drawn(config, np.array(places))
        part = TwoViews(config)(images[places], plan_views(config, draws, canvas=32))
        rows = places + [place + 16 for place in places]
        torch.testing.assert_close(part, whole[rows], atol=1e-5, rtol=0)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("engine", ["lean", "kornia"])
def test_nothing_drawn_means_nothing_changed(reference: Reference, engine: Literal["lean", "kornia"]) -> None:
    images = canvases()
    views = views_of(ViewsConfig(size=32, reference=reference, engine=engine, **NOTHING), images, side=(32, 32))
    torch.testing.assert_close(views, (images.float().contiguous() / 255).repeat(2, 1, 1, 1))


def test_output_comes_in_the_type_and_layout_asked_for() -> None:
    config, images = ViewsConfig(size=32), canvases()
    plan = planned(config, images)
    plain = TwoViews(config)(images, plan)
    half = TwoViews(config, torch.bfloat16, torch.channels_last)(images, plan)
    assert half.dtype == torch.bfloat16
    assert half.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(half.contiguous(), plain.to(torch.bfloat16))


@pytest.mark.parametrize("engine", ["lean", "kornia"])
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", ["canvas", "source"])
def test_the_device_is_asked_for_nothing(
    reference: Reference,
    engine: Literal["lean", "kornia"],
    interpolation: Literal["bilinear", "bicubic"],
    crop: Literal["canvas", "source"],
) -> None:
    """Fake tensors have no values to give."""
    config = ViewsConfig(reference=reference, engine=engine, interpolation=interpolation, crop=crop, **STUDY)
    plan = plan_views(config, drawn(config, np.arange(8)), canvas=256)
    fake = FakeTensorMode()
    fake_plan = plan.map(fake.from_tensor)
    with fake:
        shape = (16, 3, 224, 224) if crop == "source" else (8, 3, 256, 256)
        views = TwoViews(config)(torch.zeros(shape, dtype=torch.uint8), fake_plan)
    assert views.shape == (16, 3, 224, 224)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("images", [8, 40])
def test_a_batch_takes_at_most_200_operators_whatever_its_size(reference: Reference, images: int) -> None:
    config, batch = ViewsConfig(reference=reference), canvases(images, side=256)
    plan = planned(config, batch)
    assert min(len(plan.rows[name]) for name in ("jitter", "grayscale", "shrink", "blur narrow", "blur wide")) > 0
    assert dispatches(lambda: TwoViews(config)(batch, plan)) <= 200


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize(("size", "side", "images"), [(32, 32, 256), (224, 256, 16)])
def test_temporaries_stay_below_seven_times_the_views(reference: Reference, size: int, side: int, images: int) -> None:
    config, batch = ViewsConfig(size=size, reference=reference), canvases(images, side=side)
    plan, make_views = planned(config, batch), TwoViews(config)
    views = make_views(batch, plan)
    assert peak_bytes(lambda: make_views(batch, plan)) <= 7 * views.nbytes


@pytest.mark.parametrize(("size", "side", "images"), [(32, 32, 128), (224, 256, 16)])
def test_temporaries_are_fewer_than_those_of_kornias_own_sequence(size: int, side: int, images: int) -> None:
    import kornia.augmentation as K  # noqa: N812  # Kornia's own name for it

    batch = canvases(images, side=side)
    config = ViewsConfig(size=size, reference="torchvision", blur_probability=0.5 if size > 32 else 0.0)
    plan, make_views = planned(config, batch), TwoViews(config)
    sequence = K.AugmentationSequential(
        K.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
        *([K.RandomGaussianBlur((23, 23), (0.1, 2.0))] if size > 32 else []),
    )

    def kornias() -> tuple[object, object]:
        pixels = batch.float().contiguous().div_(255)
        return sequence(pixels), sequence(pixels)

    torch.manual_seed(0)
    assert peak_bytes(lambda: make_views(batch, plan)) < peak_bytes(kornias)


def test_areas_that_the_papers_sampler_never_accepts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"views\.crop_area_max = 0\.09: views\.reference = paper accepts no crop"):
        ViewsConfig(crop_area_min=0.05, crop_area_max=0.09)
    ViewsConfig(crop_area_min=0.05, crop_area_max=0.09, reference="torchvision")


def test_compiling_the_kornia_engine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"views\.compile = true: views\.engine = kornia is not compiled; use lean"):
        ViewsConfig(engine="kornia", compile=True)


def test_crops_from_the_source_are_only_mirrored_and_coloured() -> None:
    config = ViewsConfig(size=32, reference="torchvision", **{**NOTHING, "flip_probability": 0.5})
    cuts = canvases(16)
    draws = drawn(config, np.arange(8), side=(32, 32))
    source = replace(config, crop="source")
    views = TwoViews(source)(cuts, plan_views(source, draws, canvas=32))
    expected = cuts.float().contiguous() / 255
    expected[draws.flip] = expected[draws.flip].flip(-1)
    torch.testing.assert_close(views, expected)
    assert 0 < draws.flip.sum() < 16
