from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_shards import tiny_image, tiny_shards
from torch import nn

from eval.controls import calibrate_batchnorm, random_encoder, raw_pixels, spread
from eval.features import FrozenEncoder, extract, fixed_views
from model.config import EncoderConfig
from model.description import EncoderDescription
from pipelines.config import DataConfig
from pipelines.manifest import SplitIndex, open_split

CPU = torch.device("cpu")
DATA = DataConfig(canvas=32)
SMALL = EncoderConfig(name="resnet18", stem="cifar", width=0.0625)


@pytest.fixture
def train(shards: Path) -> SplitIndex:
    return open_split(shards, "train")


def description(mean: float = 0.0, std: float = 1.0) -> EncoderDescription:
    return EncoderDescription(
        encoder=SMALL,
        image_size=32,
        mean=(mean, mean, mean),
        std=(std, std, std),
        data_name="tiny",
        data_fingerprint="",
        config_sha256="",
        step=0,
        images_seen=0,
    )


def test_features_come_in_stored_order_with_their_labels(train: SplitIndex) -> None:
    extracted = extract(train, DATA, 32, {"pixels": raw_pixels}, batch=7, device=CPU)["pixels"]
    stored = [tiny_image("train", i, i % 4, 32, 32).transpose(2, 0, 1).reshape(-1) for i in range(len(train))]
    torch.testing.assert_close(extracted.features, torch.from_numpy(np.stack(stored)) / 255, rtol=0, atol=1e-6)
    assert extracted.labels.tolist() == [i % 4 for i in range(len(train))]


def test_features_do_not_depend_on_the_batch_size(train: SplitIndex) -> None:
    encoder = FrozenEncoder(random_encoder(SMALL, 32, seed=0), description(), CPU)
    one, other = (
        extract(train, DATA, 32, {"h": encoder}, batch=batch, device=CPU)["h"].features for batch in (5, len(train))
    )
    assert one.dtype == torch.float32
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_all_representations_see_the_same_images(train: SplitIndex) -> None:
    representations = {"pixels": raw_pixels, "mean": lambda views: views.mean(dim=(2, 3))}
    both = extract(train, DATA, 32, representations, batch=16, device=CPU)
    torch.testing.assert_close(both["pixels"].features.view(-1, 3, 1024).mean(dim=2), both["mean"].features)


@pytest.mark.parametrize(("size", "share"), [(32, 1.0), (65, 0.875)])
def test_the_view_is_the_central_square_of_the_original(tmp_path: Path, size: int, share: float) -> None:
    split = open_split(tiny_shards(tmp_path, 1, 1, encoding="png", size=lambda _: (64, 80)), "train")
    (views,) = fixed_views(split, DataConfig(canvas=80), size, batch=4, device=CPU)
    assert views.shape == (1, 3, size, size)
    image = torch.from_numpy(tiny_image("train", 0, 0, 64, 80)).permute(2, 0, 1)[None] / 255

    def error(height: int, width: int) -> float:
        """Distance from the central box of the original; not zero, for the canvas was stretched in between."""
        top, left = (64 - height) // 2, (80 - width) // 2
        box = image[:, :, top : top + height, left : left + width]
        resized = nn.functional.interpolate(box, (size, size), mode="bilinear", antialias=True)
        return float((views - resized).abs().mean())

    boxes = [(64, 80), (64, 64), (58, 58), (56, 56), (54, 54), (48, 48)]
    assert min(boxes, key=lambda box: error(*box)) == (64 * share, 64 * share)


def test_the_encoder_gets_input_normalised_as_its_description_says() -> None:
    encoder = FrozenEncoder(nn.Flatten(), description(mean=0.5, std=0.25), CPU)
    assert encoder(torch.ones(2, 3, 4, 4)).unique().tolist() == [2.0]


def test_large_raw_pixels_are_resized_to_32() -> None:
    assert raw_pixels(torch.rand(2, 3, 224, 224)).shape == (2, 3 * 32 * 32)
    small = torch.rand(2, 3, 8, 8)
    assert torch.equal(raw_pixels(small), small.flatten(1))


def test_the_random_encoder_depends_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    untouched = torch.random.get_rng_state()
    first, again, other = (random_encoder(SMALL, 32, seed).conv1.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), untouched)


def test_calibrated_batchnorm_has_the_statistics_of_the_data() -> None:
    views = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 5
    layer = nn.BatchNorm2d(3, momentum=0.1)
    layer.running_mean = torch.full((3,), 100.0)
    calibrate_batchnorm(layer, views.split(16))
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    torch.testing.assert_close(mean, views.mean(dim=(0, 2, 3)))
    of_batches = torch.stack([batch.var(dim=(0, 2, 3)) for batch in views.split(16)])
    torch.testing.assert_close(variance, of_batches.mean(dim=0))
    assert layer.momentum == 0.1
    assert not layer.training


def test_a_calibrated_encoder_has_finite_features_that_differ(train: SplitIndex) -> None:
    encoder = FrozenEncoder(random_encoder(SMALL, 32, seed=0), description(), CPU)
    calibrate_batchnorm(encoder, fixed_views(train, DATA, 32, batch=32, device=CPU))
    assert not any(module.training for module in encoder.modules())
    h = extract(train, DATA, 32, {"h": encoder}, batch=32, device=CPU)["h"].features
    assert h.isfinite().all()
    assert (h.std(dim=0) > 0).any()


def test_a_network_without_batchnorm_is_not_run_for_calibration() -> None:
    views = iter([torch.zeros(1, 2)])
    calibrate_batchnorm(nn.Linear(2, 2), views)
    assert len(list(views)) == 1


def test_a_part_of_a_split_is_spread_over_all_of_it(train: SplitIndex) -> None:
    part = spread(train, 16)
    assert len(part) == 16
    assert part.samples[0] == train.samples[0]
    assert part.samples[-1] == train.samples[-1]
    assert set(part.samples["shard"]) == set(train.samples["shard"])
    assert len(spread(train, 10**6)) == len(train)
