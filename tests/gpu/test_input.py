"""Decoding and views on a CUDA device; `make gpu-check`."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from gpu_setting import CPU, CUDA, IMAGES, needs_one, small_run
from PIL import Image

from pipelines.augment import TwoViews
from pipelines.config import DataConfig, ViewsConfig
from pipelines.draws import draw_views
from pipelines.evaluation_loader import evaluation_batches
from pipelines.loader import Share, claim, training_batches
from pipelines.manifest import open_split
from pipelines.plan import Plan, plan_views
from pipelines.prefetch import Prefetch

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
            torch.cuda._sleep(50_000_000)  # cycles, tens of milliseconds
            seen.append(claim(batch.canvas).clone())
            del batch
    for got, canvas in zip(seen, wanted, strict=True):
        assert torch.equal(got.cpu(), canvas)


@pytest.mark.parametrize("reference", ["paper", "torchvision"])
@pytest.mark.parametrize(("engine", "compiled"), [("lean", False), ("lean", True), ("kornia", False)])
def test_views_on_the_gpu_are_those_of_the_cpu(
    reference: Literal["paper", "torchvision"], engine: Literal["lean", "kornia"], compiled: bool
) -> None:
    study = {f"{name}_probability": 0.3 for name in ("rotation", "sobel", "noise", "cutout")}
    config = ViewsConfig(size=64, reference=reference, engine=engine, compile=compiled, **study)  # type: ignore[arg-type]
    canvas, plan = canvas_and_plan(config)
    moved = plan.pin_memory().to(CUDA)
    assert torch.equal(moved.numbers.cpu(), plan.numbers)
    assert torch.allclose(TwoViews(config)(canvas.to(CUDA), moved).cpu(), TwoViews(config)(canvas, plan), atol=1e-4)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_views_are_full_float32_though_the_run_allows_tf32(
    interpolation: Literal["bilinear", "bicubic"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    config = ViewsConfig(size=32, interpolation=interpolation)  # crops that shrink are matrix products
    canvas, plan = canvas_and_plan(config)
    views = TwoViews(config)(canvas.to(CUDA), plan.pin_memory().to(CUDA))
    assert torch.allclose(views.cpu(), TwoViews(config)(canvas, plan), atol=1e-5)
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def canvas_and_plan(config: ViewsConfig) -> tuple[torch.Tensor, Plan]:
    ids, side = np.arange(16), np.full(16, 96)
    canvas = torch.randint(0, 256, (16, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return canvas, plan_views(config, draw_views(config, ids, side, side, seed=0, epoch=0), canvas=96)
