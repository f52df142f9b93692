"""One update on a CUDA device; `make gpu-check`."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from gpu_setting import CPU, CUDA, IMAGES, batches_of, needs_one, small_run, trainer_of
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from model.loss import nt_xent
from train.lars import LARS

pytestmark = needs_one
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("micro_batch", [0, 5])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_waits_for_nothing(precision: str, micro_batch: int, shards: Path) -> None:
    config = small_run(shards, precision=precision, micro_batch=micro_batch)
    trainer, _ = trainer_of(config)
    assert trainer.probe is not None
    first, *others = batches_of(config, 4)
    trainer.train_step(first)  # allocates and chooses kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        outcomes = [trainer.train_step(batch) for batch in others]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(outcome.loss.isfinite() for outcome in outcomes)


def test_nt_xent_on_the_gpu_is_that_of_the_cpu_and_full_float32_though_the_run_allows_tf32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    z = torch.randn(514, 64, generator=torch.Generator().manual_seed(0))
    results = []
    for device in (CPU, CUDA):
        there = z.to(device).requires_grad_()
        loss = nt_xent(there, 0.1)
        (gradient,) = torch.autograd.grad(loss, there)
        results.append((loss.item(), gradient.cpu()))
    (value, gradient), (of_gpu, gradient_of_gpu) = results
    assert of_gpu == pytest.approx(value, rel=1e-5)
    assert (gradient_of_gpu - gradient).norm() < 1e-5 * gradient.norm()
    assert torch.backends.cuda.matmul.allow_tf32


def test_an_overflow_under_fp16_changes_nothing_but_the_scale_and_is_counted(shards: Path) -> None:
    config = small_run(shards, precision="fp16")
    trainer, model = trainer_of(config)
    first, second, third = batches_of(config, 3)
    trainer.train_step(first)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = trainer.optimizer.optimizer.state
    momenta = {weight: state["momentum"].clone() for weight, state in states.items()}
    scale, skipped = trainer.accelerator.scaler.get_scale(), float(trainer.skipped_steps)
    handle = model.encoder.conv1.weight.register_hook(lambda gradient: gradient * torch.inf)
    trainer.train_step(second)
    handle.remove()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(states[weight]["momentum"], momentum) for weight, momentum in momenta.items())
    assert trainer.accelerator.scaler.get_scale() == scale / 2
    assert float(trainer.skipped_steps) == skipped + 1
    trainer.train_step(third)
    assert not torch.equal(model.encoder.conv1.weight, before["encoder.conv1.weight"])


def test_lars_on_the_gpu_is_that_of_the_cpu() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(5, 4), torch.randn(5, 4)
    weights = [torch.nn.Parameter(start.to(device)) for device in (CPU, CUDA)]
    for weight in weights:
        optimizer = LARS([weight], lr=3.0, weight_decay=1e-2)
        for _ in range(3):
            weight.grad = gradient.to(weight.device, copy=True)
            optimizer.step()
    assert torch.allclose(weights[0], weights[1].cpu(), atol=1e-5)


def test_lars_launches_at_most_40_kernels_for_resnet50() -> None:
    model = timm.create_model("resnet50", num_classes=0).to(CUDA)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 1e-6},
        {"params": [p for p in model.parameters() if p.ndim == 1], "adapt": False},
    ]
    optimizer = LARS(groups, lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        optimizer.step()
        torch.cuda.synchronize()
    launches = sum(event.name.startswith(("cudaLaunchKernel", "cuLaunchKernel")) for event in profiler.events() or [])
    assert 0 < launches <= 40


def test_a_compiled_step_is_compiled_once(shards: Path) -> None:
    config = small_run(shards, compile=True)
    config = replace(config, views=replace(config.views, compile=True))
    trainer, _ = trainer_of(config)
    first, second, *others = batches_of(config, 5)
    trainer.train_step(first)
    trainer.train_step(second)
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch in others:
            trainer.train_step(batch)


def test_memory_falls_with_the_micro_batch(shards: Path) -> None:
    peaks = []
    for micro_batch in (IMAGES, 2):
        config = small_run(shards, micro_batch=micro_batch)
        config = replace(config, encoder=replace(config.encoder, width=1.0))
        trainer, _ = trainer_of(config)
        first, second = batches_of(config, 2)
        trainer.train_step(first)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer.train_step(second)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 0.6 * peaks[0]


def test_a_run_that_was_killed_goes_on_to_the_loss_of_one_that_was_not(shards: Path, tmp_path: Path) -> None:
    """cuDNN's gradients are sums in no fixed order, so that even two undisturbed runs differ in the last digits."""

    def command(run_dir: Path) -> list[str]:
        flags = "--encoder.name=resnet18 --encoder.stem=cifar --encoder.width=0.25 --head.dim=16 --views.size=32"
        more = "--optimizer.base_lr=0.2 --schedule.epochs=10 --schedule.warmup_epochs=1 --global_batch=16"
        every = "--checkpoint.every_steps=5 --metrics.log_every_steps=1 --metrics.port=0"
        where = [f"--data.dir={shards}", f"--run_dir={run_dir}"]
        return [sys.executable, "train/pretrain.py", *f"{flags} {more} {every}".split(), *where]

    def last_loss(run_dir: Path) -> float:
        return float(json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])["loss"])

    subprocess.run(command(tmp_path / "whole"), cwd=ROOT, check=True)
    killed = subprocess.Popen(command(tmp_path / "killed"), cwd=ROOT)
    while not any((tmp_path / "killed" / "checkpoints").glob("step-*")):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    subprocess.run(command(tmp_path / "killed"), cwd=ROOT, check=True)
    assert last_loss(tmp_path / "killed") == pytest.approx(last_loss(tmp_path / "whole"), rel=1e-2)


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def test_the_encoder_is_the_same_with_the_online_probe_and_without_it(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    weights = []
    for enabled in (True, False):
        config = small_run(shards, precision="fp32", cudnn_benchmark=False)
        config = replace(config, probe=replace(config.probe, enabled=enabled))
        trainer, model = trainer_of(config)
        trainer.train_step(batches_of(config, 1)[0])
        weights.append(copies(model.state_dict()))
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())
