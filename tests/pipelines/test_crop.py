from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as torchvision
from torch import Tensor
from torchvision.transforms import InterpolationMode
from view_cases import canvases

from pipelines.augment import EvalView
from pipelines.crop import Interpolation, crop_axes, crop_by_matrices, crop_resize_flip

BOXES = [(0, 0, 32, 32), (3, 5, 20, 11), (31, 31, 1, 1), (16, 0, 16, 32), (0, 7, 9, 25)]


def cut(
    images: Tensor, boxes: Sequence[tuple[int, ...]], size: int, *, flip: bool, interpolation: Interpolation
) -> Tensor:
    """Boxes in pixels of the one canvas."""
    side = images.shape[-1]
    box = np.array(boxes, dtype=np.float64) / side
    axes = torch.from_numpy(crop_axes(box, np.full(len(box), flip), size, side)).float()
    if interpolation == "bicubic":
        return crop_by_matrices(images, axes, size, "bicubic")
    shrink = torch.from_numpy(np.flatnonzero((box[:, 2:] * side > size).any(axis=1)))
    return crop_resize_flip(images, axes, size, shrink)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [8, 32, 50])
def test_crops_on_whole_pixels_are_torchvisions_antialiased_resized_crops(
    size: int, flip: bool, interpolation: Interpolation
) -> None:
    images = canvases(1)
    ours = cut(images, BOXES, size, flip=flip, interpolation=interpolation)
    for view, (top, left, height, width) in zip(ours, BOXES, strict=True):
        cropped = images[0, :, top : top + height, left : left + width].float().contiguous() / 255
        theirs = torchvision.resize(cropped, [size, size], InterpolationMode(interpolation), antialias=True)
        theirs = theirs.flip(-1) if flip else theirs
        torch.testing.assert_close(view, theirs.clamp(0, 1), atol=5e-6, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_fine_stripes_do_not_alias_when_they_shrink(interpolation: Interpolation) -> None:
    stripes = (torch.arange(256) % 2 * 255).to(torch.uint8).expand(1, 3, 256, 256).contiguous()
    small = cut(stripes, [(0, 0, 256, 256)], 64, flip=False, interpolation=interpolation)
    assert (small[..., 2:-2, 2:-2] - 0.5).abs().max() < 0.01


@pytest.mark.parametrize("size", [16, 48])
def test_nothing_outside_the_box_is_seen(size: int) -> None:
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 8:24, 4:28] = 255
    for interpolation in ("bilinear", "bicubic"):
        view = cut(images, [(8, 4, 16, 24)], size, flip=False, interpolation=interpolation)
        torch.testing.assert_close(view, torch.ones_like(view))


def test_between_pixels_enlarged_and_filtered_crops_agree_inside() -> None:
    """Boxes of originals that are not as large as the canvas end between its pixels; only there may the two differ."""
    images, box = canvases(1), np.array([[0.213, 0.317, 0.401, 0.523]])
    axes = torch.from_numpy(crop_axes(box, np.array([False]), 32, 32)).float()
    sampled = crop_resize_flip(images, axes, 32, torch.tensor([], dtype=torch.int64))
    filtered = crop_by_matrices(images, axes, 32, "bilinear")
    torch.testing.assert_close(sampled[..., 4:-4, 4:-4], filtered[..., 4:-4, 4:-4], atol=5e-6, rtol=0)
    assert (sampled - filtered).abs().max() < 0.1


def test_the_evaluation_view_is_a_central_square_of_the_original() -> None:
    images = canvases(2, side=256)
    centred = EvalView(224)(images, np.array([256, 512]), np.array([256, 256]))
    expected = torchvision.resize(images[0, :, 16:240, 16:240].float().contiguous() / 255, [224, 224])
    torch.testing.assert_close(centred[0], expected, atol=5e-6, rtol=0)
    # 512 high on a canvas of 256: a square of 224 original pixels is 112 canvas rows by 224 canvas columns.
    tall = images[1, :, 72:184, 16:240].float().contiguous() / 255
    torch.testing.assert_close(centred[1], torchvision.resize(tall, [224, 224], antialias=True), atol=5e-6, rtol=0)


def test_the_evaluation_view_of_a_small_image_is_all_of_it() -> None:
    images = canvases(3)
    side = np.full(3, 32)
    torch.testing.assert_close(EvalView(32)(images, side, side), images.float().contiguous() / 255)
