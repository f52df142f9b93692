import io
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as torchvision
from PIL import Image
from tiny_shards import tiny_image, tiny_shards
from torchvision.transforms import InterpolationMode
from view_cases import NOTHING

from pipelines.augment import TwoViews
from pipelines.config import DataConfig, ViewsConfig
from pipelines.decode import Decoder, SourceCrops
from pipelines.draws import draw_views
from pipelines.loader import Batch, Share, training_batches
from pipelines.manifest import SplitIndex, open_split
from train.config import PretrainConfig

CPU = torch.device("cpu")
Interpolation = Literal["bilinear", "bicubic"]


def batches(split: SplitIndex, views: ViewsConfig, **share: int) -> list[Batch]:
    data = DataConfig(canvas=32, window_shards=1, bad_sample_budget=0.1)
    return list(training_batches(split, data, views, Share(**{"global_batch": 16, "seed": 0, **share}), CPU))


def png(pixels: np.ndarray) -> memoryview:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return memoryview(file.getvalue())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_of_images_no_larger_than_their_canvas_are_those_of_the_canvas(
    shards: Path, interpolation: Interpolation
) -> None:
    split = open_split(shards, "train")
    only_crop = {**NOTHING, "crop_area_min": 0.2, "flip_probability": 0.5, "interpolation": interpolation}
    canvas, source = (ViewsConfig(size=32, crop=crop, **only_crop) for crop in ("canvas", "source"))
    for a, b in zip(batches(split, canvas, last_step=3), batches(split, source, last_step=3), strict=True):
        assert torch.equal(a.sample_id, b.sample_id)
        assert torch.equal(a.plan.numbers, b.plan.numbers)
        assert b.canvas.shape == (32, 3, 32, 32)
        difference = TwoViews(canvas)(a.canvas, a.plan) - TwoViews(source)(b.canvas, b.plan)
        inside = difference if interpolation == "bilinear" else difference[..., 3:-3, 3:-3]
        assert inside.abs().max() < 0.8 / 255  # crops come rounded to uint8


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_cut_from_the_original_at_its_own_size(interpolation: Interpolation) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (80, 120, 3), dtype=np.uint8)
    boxes = [(10, 20, 60, 50), (0, 0, 80, 120), (41, 7, 20, 16), (30, 100, 50, 20)]
    decoder = Decoder(64, 2, 1, CPU, resize=True, crops=crops_of_32_pixels(interpolation))
    cut = decoder.decode([png(pixels)] * 2, None, np.array(boxes) / [80, 120, 80, 120])
    decoder.close()
    for view, (top, left, height, width) in zip(cut, boxes, strict=True):
        region = torch.from_numpy(pixels[top : top + height, left : left + width]).permute(2, 0, 1).float()
        kernel = InterpolationMode(interpolation)
        expected = torchvision.resize(region.contiguous(), [32, 32], kernel, antialias=True).clamp(0, 255)
        assert (view - expected)[:, 3:-3, 3:-3].abs().max() < 0.6  # at the edges DALI repeats the outermost pixel
        if interpolation == "bilinear" and max(height, width) <= 32:
            assert (view - expected).abs().max() < 0.6


def crops_of_32_pixels(interpolation: Interpolation) -> SourceCrops:
    return SourceCrops(size=32, bicubic=interpolation == "bicubic", boxes_of=lambda ids: np.zeros((2 * len(ids), 4)))


def test_each_rank_and_each_resumed_run_gets_its_part_of_the_same_crops(shards: Path) -> None:
    split, views = open_split(shards, "train"), ViewsConfig(size=24, crop="source")
    whole = batches(split, views, last_step=3)
    for rank in range(2):
        for a, b in zip(
            whole[1:], batches(split, views, rank=rank, world_size=2, first_step=1, last_step=3), strict=True
        ):
            places = [a.sample_id.tolist().index(sample) for sample in b.sample_id.tolist()]
            rows = places + [place + 16 for place in places]
            assert torch.equal(b.canvas, a.canvas[rows])
            assert torch.equal(b.plan.numbers, a.plan.numbers[rows])


def test_a_stand_in_for_a_damaged_sample_is_cut_by_its_own_draws(tmp_path: Path) -> None:
    """Every sample has a size of its own here, so that another's boxes would be others."""
    directory = tiny_shards(tmp_path / "data", images_per_class=16, side=32, size=lambda i: (32 + i, 96 - i))
    split, views = open_split(directory, "train"), ViewsConfig(size=32, crop="source")
    split.samples["crc32"][5] ^= 1
    found = batches(split, views, last_step=2)
    assert [skip.sample_id for batch in found for skip in batch.skipped] == [5]
    for batch in found:
        ids = batch.sample_id.numpy()
        records = split.samples[ids]
        height, width = records["height"].astype(np.int64), records["width"].astype(np.int64)
        draws = draw_views(views, ids, height, width, 0, 0, batch.step)
        np.testing.assert_array_equal(batch.draws.box, draws.box)
        decoder = Decoder(32, 16, 1, CPU, resize=True, crops=crops_of_32_pixels("bilinear"))
        images = [
            png(tiny_image("train", i, i % 2, *size))
            for i, size in zip(ids.tolist(), zip(height, width, strict=True), strict=True)
        ]
        assert torch.equal(batch.canvas, decoder.decode(images, None, draws.box))
        decoder.close()


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_cache_of_canvases_is_refused(cache: Literal["memory", "disk"]) -> None:
    with pytest.raises(ValueError, match=f"data.cache = {cache}: views.crop = source .* use data.cache = none"):
        PretrainConfig(data=DataConfig(cache=cache), views=ViewsConfig(crop="source"))
