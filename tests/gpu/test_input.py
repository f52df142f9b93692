"""Decoding and views on a CUDA device; `make gpu-check`."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from gpu_setting import CPU, CUDA, IMAGES, keep_device_busy, needs_one, small_run, tf32_allowed, trainer_of
from PIL import Image
from torch import Tensor

from pipelines.augment import TwoViews
from pipelines.config import DataConfig, ViewsConfig
from pipelines.decode import Decoder
from pipelines.draws import draw_views
from pipelines.evaluation_loader import evaluation_batches
from pipelines.loader import Share, claim, training_batches
from pipelines.manifest import open_split
from pipelines.plan import Plan, plan_views
from pipelines.prefetch import Prefetch
from pipelines.store import Store

pytestmark = needs_one


def assert_decoded_alike(directory: Path, canvas: int) -> None:
    """Mean difference of at most one level between DALI's mixed decoder and its CPU one, image by image."""
    split, data = open_split(directory, "train"), DataConfig(canvas=canvas)
    with Prefetch(evaluation_batches(split, data, 32, CUDA), depth=2) as on_gpu:
        pairs = list(zip(on_gpu, evaluation_batches(split, data, 32, CPU), strict=True))
    for gpu, cpu in pairs:
        assert gpu.canvas.is_cuda
        difference = (gpu.canvas.cpu().float() - cpu.canvas.float()).abs().flatten(1).mean(1)
        assert difference.max() <= 1


def test_canvases_decoded_on_the_gpu_are_those_of_the_cpu(shards: Path) -> None:
    assert_decoded_alike(shards, canvas=48)


def test_formats_that_nvjpeg_lacks_are_decoded_alike(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(96), np.arange(128))[..., None] * np.array([1, 1, 0.5]) % 256
    image = Image.fromarray(smooth.astype(np.uint8))
    for split in ("train", "test"):
        directory = tmp_path / "raw" / split / "one"
        directory.mkdir(parents=True)
        image.save(directory / "baseline.jpg", quality=95)
        image.save(directory / "progressive.jpg", quality=95, progressive=True)
        image.save(directory / "whole-chroma.jpg", quality=95, subsampling=0)
        image.convert("L").save(directory / "gray.jpg", quality=95)
        image.convert("CMYK").save(directory / "cmyk.jpg", quality=95)
        image.save(directory / "lossless.png")
        image.convert("P").save(directory / "palette.png")
    build = ["-m", "pipelines.build_shards", "folder", "--source", str(tmp_path / "raw"), "--output"]
    subprocess.run([sys.executable, *build, str(tmp_path / "shards")], check=True)
    assert_decoded_alike(tmp_path / "shards", canvas=64)


def test_batches_are_whole_under_a_consumer_that_is_slow(shards: Path) -> None:
    """The loader goes on while kernels that read its batches wait: memory must not be used again before."""
    config, share = small_run(shards), Share(global_batch=IMAGES, seed=0, last_step=12)
    split = open_split(shards, "train")
    wanted = [batch.canvas.clone() for batch in training_batches(split, config.data, config.views, share, CPU)]
    seen = []
    with Prefetch(training_batches(split, config.data, config.views, share, CUDA), depth=2) as ahead:
        for batch in ahead:
            keep_device_busy()
            seen.append(claim(batch.canvas).clone())
            del batch
    for got, canvas in zip(seen, wanted, strict=True):
        assert torch.equal(got.cpu(), canvas)


def test_a_step_sees_its_own_views_though_the_device_lags_behind_the_loader(shards: Path) -> None:
    """As above, for all that a batch holds on the device: its plan has memory of its own."""
    config = small_run(shards, precision="fp32", cudnn_benchmark=False)
    split, share = open_split(shards, "train"), Share(global_batch=IMAGES, seed=0, last_step=12)
    trainer, _ = trainer_of(config)
    seen: list[Tensor] = []
    trainer.model.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    with Prefetch(training_batches(split, config.data, config.views, share, CUDA), depth=2) as ahead:
        for batch in ahead:
            keep_device_busy()
            trainer.train_step(batch)
            del batch
    wanted = training_batches(split, config.data, config.views, share, CPU)
    for views, batch in zip(seen, wanted, strict=True):
        assert torch.allclose(views.cpu(), TwoViews(config.views)(batch.canvas, batch.plan), atol=1e-4)


def test_a_canvas_can_be_read_by_any_stream_as_soon_as_it_is_decoded(shards: Path) -> None:
    split = open_split(shards, "train")
    images = Store(split, DataConfig()).read(np.arange(8)).images
    wanted = Decoder(32, 8, 1, CPU, resize=False).decode(images)
    decoder = Decoder(32, 8, 1, CUDA, resize=False)
    decoder.decode(images)  # allocates
    with torch.cuda.stream(torch.cuda.Stream()):
        keep_device_busy()  # the copy that hands the canvas over queues behind it
        canvas = decoder.decode(images)
    assert torch.equal(canvas.clone().cpu(), wanted)  # by the default stream


@pytest.mark.parametrize("reference", ["paper", "torchvision"])
@pytest.mark.parametrize(("engine", "compiled"), [("lean", False), ("lean", True), ("kornia", False)])
def test_views_on_the_gpu_are_those_of_the_cpu(
    reference: Literal["paper", "torchvision"], engine: Literal["lean", "kornia"], compiled: bool
) -> None:
    study = {f"{name}_probability": 0.3 for name in ("rotation", "sobel", "noise", "cutout")}
    config = ViewsConfig(size=64, reference=reference, engine=engine, compile=compiled, **study)  # type: ignore[arg-type]  # all are numbers
    canvas, plan = canvas_and_plan(config)
    moved = plan.pin_memory().to(CUDA)
    assert torch.equal(moved.numbers.cpu(), plan.numbers)
    assert torch.allclose(TwoViews(config)(canvas.to(CUDA), moved).cpu(), TwoViews(config)(canvas, plan), atol=1e-4)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_views_are_full_float32_though_the_run_allows_tf32(interpolation: Literal["bilinear", "bicubic"]) -> None:
    config = ViewsConfig(size=32, interpolation=interpolation)  # crops that shrink are matrix products
    canvas, plan = canvas_and_plan(config)
    with tf32_allowed():
        views = TwoViews(config)(canvas.to(CUDA), plan.pin_memory().to(CUDA))
    # Rounding to TF32 would change some pixels by 1e-3, another order of summation changes them by 1e-6.
    assert torch.allclose(views.cpu(), TwoViews(config)(canvas, plan), atol=1e-5)


def canvas_and_plan(config: ViewsConfig) -> tuple[Tensor, Plan]:
    ids, side = np.arange(16), np.full(16, 96)
    canvas = torch.randint(0, 256, (16, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return canvas, plan_views(config, draw_views(config, ids, side, side, seed=0, epoch=0), canvas=96)
