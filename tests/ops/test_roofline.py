from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.config import EncoderConfig, HeadConfig
from model.simclr import SimCLR
from ops.bench.made_batch import made_batch
from ops.bench.roofline import (
    Roofline,
    copy_bytes_per_second,
    flops_per_image,
    loader_images_per_second,
    measure_roofline,
    peak_flops,
    roofline_lines,
    view_bytes,
)
from ops.bench.timing import seconds_of
from pipelines.config import DataConfig, ViewsConfig
from train.config import PretrainConfig

CPU = torch.device("cpu")
CONFIG = PretrainConfig(
    data=DataConfig(canvas=32),
    views=ViewsConfig(size=32),
    encoder=EncoderConfig(name="resnet18", stem="cifar", width=0.25),
    head=HeadConfig(dim=16),
    global_batch=8,
    precision="fp32",
    device="cpu",
)
ROOFLINE = Roofline(
    flops_per_image=2e9,
    peak_flops=4e12,
    view_bytes_per_image=3e6,
    copy_bytes_per_second=6e9,
    loader_images_per_second=5000,
)


def multiplications_forward(model: SimCLR, size: int) -> tuple[int, int]:
    """Of one view: of all convolutions and linear layers, and of the first one."""
    counts: list[int] = []

    def count(layer: Any, _: Any, output: Tensor) -> None:
        taps = layer.weight[0].numel()  # inputs, and the kernel's places
        counts.append(output[0].numel() * taps)

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    model.eval()(torch.zeros(1, 3, size, size))
    return sum(counts), counts[0]


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_an_image_takes_the_flops_of_its_layers_three_times_but_for_the_stem(stem: Any) -> None:
    config = replace(CONFIG, encoder=replace(CONFIG.encoder, stem=stem))
    every, first = multiplications_forward(SimCLR(config.encoder, config.head, 32), 32)
    # Forward, and backward to weights and inputs; views need no gradient. Two views; a multiplication and an addition.
    assert flops_per_image(config) == 2 * 2 * (3 * every - first)


def test_resnet50_at_224_pixels_takes_the_published_flops() -> None:
    config = PretrainConfig(head=HeadConfig(kind="none"))
    forward = flops_per_image(config) / 2 / 3
    assert forward == pytest.approx(2 * 4.09e9, rel=0.02)  # He et al. 2015 and torchvision: 4.09 G multiplications


def test_the_peak_is_what_a_product_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.5, 0.25, 1.0, 0.5, 0.5])
    monkeypatch.setattr("ops.bench.timing.seconds_of", lambda *_: next(seconds))
    assert peak_flops(CPU, torch.bfloat16, side=8) == 2 * 8**3 / 0.25


def test_a_copy_counts_what_it_reads_and_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.bench.timing.seconds_of", lambda *_: 0.5)
    assert copy_bytes_per_second(CPU, size=1000) == 4000


def test_seconds_are_those_of_the_work() -> None:
    x = torch.ones(256, 256)
    short = min(seconds_of(lambda: x @ x, CPU) for _ in range(5))
    long = min(seconds_of(lambda: [x @ x for _ in range(20)], CPU) for _ in range(5))
    assert 0 < short < long


def test_the_loader_counts_images_after_its_warm_up() -> None:
    batches: Any = [SimpleNamespace(sample_id=range(4)) for _ in range(3)]
    assert loader_images_per_second(batches, 1) > 0
    assert loader_images_per_second(batches, 3) == 0


def test_compiled_views_count_as_uncompiled_ones_in_float32() -> None:
    batch = made_batch(CONFIG, 0, CPU)
    compiled = replace(CONFIG, precision="bf16", views=replace(CONFIG.views, compile=True))
    moved = view_bytes(CONFIG, batch.canvas, batch.plan)
    assert moved == view_bytes(compiled, batch.canvas, batch.plan)
    assert moved > batch.canvas.nbytes + 16 * 3 * 32 * 32 * 4


def test_all_limits_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.bench.roofline._PRODUCT_SIDE", {"cpu": 64})
    monkeypatch.setattr("ops.bench.roofline._COPY_BYTES", {"cpu": 2**16})
    batch = made_batch(CONFIG, 0, CPU)
    measured = measure_roofline(CONFIG, batch.canvas, batch.plan, [batch, batch, batch], 1)
    assert measured.flops_per_image == flops_per_image(CONFIG)
    assert measured.view_bytes_per_image == view_bytes(CONFIG, batch.canvas, batch.plan) / 8
    assert measured.peak_flops > 1e6
    assert measured.copy_bytes_per_second > 1e6
    assert measured.loader_images_per_second > 0


def test_shares_of_the_limits_are_told_in_a_line_each() -> None:
    assert ROOFLINE.mfu(1000) == pytest.approx(0.5)
    assert ROOFLINE.view_seconds_per_image == pytest.approx(0.0005)
    assert roofline_lines(ROOFLINE, 1000) == [
        "model      2 GFLOP per image, 2 TFLOP/s; a large product reaches 4 TFLOP/s: MFU 0.50",
        "views      3 MB moved per image; a large copy moves 6 GB/s: at least 0.500 of a step",
        "loader     5,000 images/s alone: 5.0 times a whole step's",
    ]
