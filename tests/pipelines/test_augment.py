import kornia
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from torch import Tensor

from pipelines.augment import TwoViews, centre_view, crop_resize_flip
from pipelines.config import ViewsConfig
from pipelines.draws import COLOUR_OPERATIONS, draw_views


def canvas(images: int = 6, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(images, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return (smooth * 255).round().to(torch.uint8)


def views_of(images: Tensor, config: ViewsConfig, epoch: int = 0) -> Tensor:
    ids = np.arange(len(images))
    sides = np.full(len(images), images.shape[-1])
    return TwoViews(config)(images, draw_views(config, ids, sides, sides, seed=0, epoch=epoch))


@pytest.mark.parametrize("size", [8, 32, 50])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_on_whole_pixels_is_torchvisions_antialiased_resized_crop(size: int, mirrored: bool) -> None:
    images = canvas(1)
    for top, left, height, width in [(0, 0, 32, 32), (3, 5, 20, 11), (31, 31, 1, 1), (16, 0, 16, 32)]:
        box = torch.tensor([[top, left, height, width]], dtype=torch.float32) / 32
        ours = crop_resize_flip(images, box, torch.tensor([float(mirrored)]), size)
        cropped = images[:, :, top : top + height, left : left + width].float() / 255
        theirs = reference.resize(cropped, [size, size], antialias=True)
        theirs = theirs.flip(-1) if mirrored else theirs
        assert torch.allclose(ours, theirs, atol=2e-6)


def test_fine_stripes_do_not_alias_when_they_shrink() -> None:
    stripes = (torch.arange(256) % 2 * 255).to(torch.uint8).expand(1, 3, 256, 256)
    small = crop_resize_flip(stripes.contiguous(), torch.tensor([[0.0, 0, 1, 1]]), torch.zeros(1), 64)
    assert (small[..., 1:-1, 1:-1] - 0.5).abs().max() < 0.01


def test_the_centre_view_is_a_central_square_of_the_original() -> None:
    images = canvas(2, side=32)
    height, width = torch.tensor([32.0, 64.0]), torch.tensor([32.0, 32.0])
    centred = centre_view(images, height, width, 16, share=0.5)
    assert torch.allclose(centred[0], reference.resize(images[0, :, 8:24, 8:24].float() / 255, [16, 16]), atol=2e-6)
    # 64 high on a canvas of 32: a square of 16 original pixels is 8 canvas rows by 16 canvas columns.
    tall = images[1, :, 12:20, 8:24].float() / 255
    assert torch.allclose(centred[1], reference.resize(tall, [16, 16], antialias=True), atol=2e-6)


def test_views_are_two_per_image_in_range_and_different() -> None:
    images = canvas()
    views = views_of(images, ViewsConfig(size=24))
    assert views.shape == (12, 3, 24, 24)
    assert views.dtype == torch.float32
    assert views.min() >= 0
    assert views.max() <= 1
    assert (views[:6] - views[6:]).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_a_view_does_not_depend_on_its_batch() -> None:
    images, config = canvas(6), ViewsConfig(size=32)
    whole = views_of(images, config)
    ids, sides = np.array([4, 2]), np.full(2, 32)
    part = TwoViews(config)(images[[4, 2]], draw_views(config, ids, sides, sides, seed=0, epoch=0))
    assert torch.allclose(part, whole[[4, 2, 10, 8]], atol=1e-6)


def test_nothing_drawn_means_nothing_changed() -> None:
    images = canvas()
    config = ViewsConfig(
        size=32,
        crop_area_min=1.0,
        flip_probability=0.0,
        jitter_probability=0.0,
        grayscale_probability=0.0,
        blur_probability=0.0,
    )
    views = views_of(images, config)
    # Crops of area 1 and aspect other than 1 do not fit a square image, so the whole image is the only crop.
    assert torch.allclose(views, (images.float() / 255).repeat(2, 1, 1, 1), atol=1e-6)


def test_colour_is_torchvisions_operation_by_operation_in_the_drawn_order() -> None:
    images = canvas(16)
    config = ViewsConfig(
        size=32, crop_area_min=1.0, flip_probability=0.0, grayscale_probability=0.0, blur_probability=0.0
    )
    ids, sides = np.arange(16), np.full(16, 32)
    draws = draw_views(config, ids, sides, sides, seed=0, epoch=0)
    views = TwoViews(config)(images, draws)
    apply = {
        "brightness": reference.adjust_brightness,
        "contrast": reference.adjust_contrast,
        "saturation": reference.adjust_saturation,
        "hue": reference.adjust_hue,
    }
    jittered = 0
    for row, view in enumerate(views):
        expected = images[row % 16].float() / 255
        for stage in draws.colour_rows:
            for column, rows in enumerate(stage):
                if row in rows.tolist():
                    expected = apply[COLOUR_OPERATIONS[column]](expected, draws.factors[row, column].item())
                    jittered += 1
        assert torch.allclose(view, expected, atol=2e-4)  # torchvision's luminance weights have one digit more
    assert jittered > 60


def test_grayscale_and_blur_touch_only_the_drawn_rows() -> None:
    images = canvas(16)
    config = ViewsConfig(size=40, crop_area_min=1.0, flip_probability=0.0, jitter_probability=0.0)
    ids, sides = np.arange(16), np.full(16, 32)
    draws = draw_views(config, ids, sides, sides, seed=0, epoch=0)
    views = TwoViews(config)(images, draws)
    plain = crop_resize_flip(images, draws.box, draws.flip, 40)
    for row, view in enumerate(views):
        expected = plain[row : row + 1]
        if row in draws.grayscale_rows.tolist():
            expected = kornia.color.rgb_to_grayscale(expected).expand(-1, 3, -1, -1)
        if row in draws.blur_rows.tolist():
            expected = reference.gaussian_blur(expected, [5, 5], [draws.sigma[row].item()])
        assert torch.allclose(view, expected[0], atol=1e-5)


def test_the_blur_kernel_is_a_tenth_of_the_view_forced_odd() -> None:
    kernels = {size: TwoViews(ViewsConfig(size=size))._kernel for size in (8, 32, 96, 224)}
    assert kernels == {8: 1, 32: 3, 96: 9, 224: 23}
