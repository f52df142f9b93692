"""What only a GPU can show; `make gpu-check`. Without one every test is skipped."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from model.config import EncoderConfig, HeadConfig
from pipelines.augment import TwoViews
from pipelines.config import DataConfig, ViewsConfig
from pipelines.draws import draw_views
from pipelines.evaluation_loader import evaluation_batches
from pipelines.loader import Share, training_batches
from pipelines.manifest import open_split
from pipelines.plan import plan_views
from pipelines.prefetch import Prefetch
from train.config import OptimizerConfig, PretrainConfig
from train.distributed import make_accelerator
from train.lars import LARS
from train.pretrain import build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_canvases_decoded_on_the_gpu_are_those_of_the_cpu(shards: Path) -> None:
    split, data = open_split(shards, "train"), DataConfig(canvas=48)
    with Prefetch(evaluation_batches(split, data, 32, CUDA), depth=2) as on_gpu:
        pairs = list(zip(on_gpu, evaluation_batches(split, data, 32, CPU), strict=True))
    for gpu, cpu in pairs:
        assert gpu.canvas.is_cuda
        assert (gpu.canvas.cpu().float() - cpu.canvas.float()).abs().mean() <= 1


@pytest.mark.parametrize("reference", ["paper", "torchvision"])
@pytest.mark.parametrize(("engine", "compiled"), [("lean", False), ("lean", True), ("kornia", False)])
def test_views_on_the_gpu_are_those_of_the_cpu(
    reference: Literal["paper", "torchvision"], engine: Literal["lean", "kornia"], compiled: bool
) -> None:
    study = {f"{name}_probability": 0.3 for name in ("rotation", "sobel", "noise", "cutout")}
    config = ViewsConfig(size=64, reference=reference, engine=engine, compile=compiled, **study)  # type: ignore[arg-type]
    ids, side = np.arange(16), np.full(16, 96)
    canvas = torch.randint(0, 256, (16, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plan = plan_views(config, draw_views(config, ids, side, side, seed=0, epoch=0), canvas=96)
    moved = plan.pin_memory().to(CUDA)
    assert torch.equal(moved.numbers.cpu(), plan.numbers)
    assert torch.allclose(TwoViews(config)(canvas.to(CUDA), moved).cpu(), TwoViews(config)(canvas, plan), atol=1e-4)


def test_lars_on_the_gpu_is_that_of_the_cpu() -> None:
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(5, 4, device=device)) for device in (CPU, CUDA)]
    weights[1].data.copy_(weights[0].data)
    gradient = torch.randn(5, 4)
    for weight in weights:
        optimizer = LARS([weight], lr=3.0, weight_decay=1e-2)
        for _ in range(3):
            weight.grad = gradient.to(weight.device)
            optimizer.step()
    assert torch.allclose(weights[0], weights[1].cpu(), atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_waits_for_nothing(precision: str, shards: Path) -> None:
    config = PretrainConfig(
        data=DataConfig(dir=str(shards), canvas=32),
        views=ViewsConfig(size=32),
        encoder=EncoderConfig(name="resnet18", stem="cifar", width=0.25),
        head=HeadConfig(dim=16),
        optimizer=OptimizerConfig(base_lr=0.2),
        global_batch=16,
        precision=precision,  # type: ignore[arg-type]
    )
    split = open_split(shards, "train")
    AcceleratorState._reset_state(reset_partial_state=True)  # a process is meant to have one precision only
    trainer, _ = build(config, split, make_accelerator(config), None)
    share = Share(global_batch=16, seed=0, last_step=4)
    batches = training_batches(split, config.data, config.views, share, CUDA)
    with Prefetch(batches, depth=4) as ahead:
        ready = list(ahead)  # the loader's own thread may wait; the step may not
    trainer.train_step(ready[0])  # allocates and chooses kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [trainer.train_step(batch) for batch in ready[1:]]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(loss.isfinite() for loss in losses)
