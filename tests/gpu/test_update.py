"""One update on a CUDA device; `make gpu-check`."""

import json
import re
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
from gpu_setting import CPU, CUDA, batches_of, needs_one, nothing_may_wait, small_run, tf32_allowed, trainer_of
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from model.loss import _CHUNK_BYTES, nt_xent
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
    with nothing_may_wait():
        outcomes = [trainer.train_step(batch) for batch in others]
    assert all(outcome.loss.isfinite() for outcome in outcomes)


def test_the_guard_notices_what_waits() -> None:
    one = torch.ones((), device=CUDA)
    with nothing_may_wait(), pytest.raises(RuntimeError, match="synchroniz"):
        one.item()
    assert one.item() == 1


@pytest.mark.parametrize("chunk_bytes", [_CHUNK_BYTES["cuda"], 2**16], ids=["one chunk", "17 chunks"])
def test_nt_xent_on_the_gpu_is_that_of_the_cpu_and_full_float32_though_the_run_allows_tf32(
    chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_CHUNK_BYTES, "cuda", chunk_bytes)
    z = torch.randn(514, 64, generator=torch.Generator().manual_seed(0))
    results = []
    for device in (CPU, CUDA):
        there = z.to(device).requires_grad_()
        with tf32_allowed():
            loss = nt_xent(there, 0.1)
            (gradient,) = torch.autograd.grad(loss, there)
        results.append((loss.item(), gradient.cpu()))
    (value, gradient), (of_gpu, gradient_of_gpu) = results
    assert of_gpu == pytest.approx(value, rel=1e-5)
    # TF32 would change it by 5e-5, another order of summation changes it by 1e-7.
    assert (gradient_of_gpu - gradient).norm() < 1e-5 * gradient.norm()


def test_an_overflow_under_fp16_changes_nothing_but_the_scale_and_is_counted(shards: Path) -> None:
    config = small_run(shards, precision="fp16")
    trainer, model = trainer_of(config)
    first, second, third = batches_of(config, 3)
    trainer.train_step(first)
    trainer.accelerator.scaler.update(1024.0)  # from the default 65536 the next steps could overflow by themselves
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = trainer.optimizer.optimizer.state
    momenta = {weight: state["momentum"].clone() for weight, state in states.items()}
    skipped = float(trainer.skipped_steps)
    handle = model.encoder.conv1.weight.register_hook(lambda gradient: gradient * torch.inf)
    trainer.train_step(second)
    handle.remove()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(states[weight]["momentum"], momentum) for weight, momentum in momenta.items())
    assert trainer.accelerator.scaler.get_scale() == 512
    assert float(trainer.skipped_steps) == skipped + 1
    trainer.train_step(third)
    assert not torch.equal(model.encoder.conv1.weight, before["encoder.conv1.weight"])
    assert float(trainer.skipped_steps) == skipped + 1


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_lars_launches_at_most_40_kernels_for_resnet50(layout: torch.memory_format) -> None:
    model = timm.create_model("resnet50", num_classes=0).to(CUDA, memory_format=layout)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 1e-6},
        {"params": [p for p in model.parameters() if p.ndim == 1], "adapt": False},
    ]
    optimizer = LARS(groups, lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiler:
        optimizer.step()
        torch.cuda.synchronize()
    launches = sum(event.name.startswith(("cudaLaunchKernel", "cuLaunchKernel")) for event in profiler.events() or [])
    assert 0 < launches <= 40


def test_a_compiled_step_is_compiled_once(shards: Path) -> None:
    config = small_run(shards, compile=True)
    config = replace(config, views=replace(config.views, compile=True))
    trainer, _ = trainer_of(config)
    first, *others = batches_of(config, 4)
    trainer.train_step(first)
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch in others:
            trainer.train_step(batch)


def test_memory_falls_with_the_micro_batch(shards: Path) -> None:
    """Many images and few weights: else LARS, which needs 16 bytes for each weight for a moment, is what fills most."""
    peaks = []
    for micro_batch in (0, 4):
        config = small_run(shards, global_batch=64, micro_batch=micro_batch, cudnn_benchmark=False)
        trainer, _ = trainer_of(config)
        first, second = batches_of(config, 2)
        trainer.train_step(first)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer.train_step(second)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 0.6 * peaks[0]


def command(shards: Path, run_dir: Path) -> list[str]:
    """A run of 40 steps in bf16."""
    flags = "--encoder.name=resnet18 --encoder.stem=cifar --encoder.width=0.25 --head.dim=16 --views.size=32"
    more = "--optimizer.base_lr=0.2 --schedule.epochs=10 --schedule.warmup_epochs=1 --global_batch=16"
    every = "--checkpoint.every_steps=5 --metrics.log_every_steps=1 --metrics.port=0 --cudnn_benchmark=false"
    where = [f"--data.dir={shards}", f"--run_dir={run_dir}"]
    return [sys.executable, "train/pretrain.py", *f"{flags} {more} {every}".split(), *where]


def losses(run_dir: Path) -> dict[int, float]:
    """By step, as far as the run has come."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def test_a_run_that_was_killed_goes_on_to_the_loss_of_one_that_was_not(shards: Path, tmp_path: Path) -> None:
    """The first step after the checkpoint repeats one of the killed run: the same weights, views and kernels.

    Later ones are not the same in the last digits even of two undisturbed runs, because cuDNN's gradients are sums in
    no fixed order, and bf16 makes much of little; hence the wider tolerance at the end.
    """
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    subprocess.run(command(shards, whole), cwd=ROOT, check=True)
    process = subprocess.Popen(command(shards, stopped), cwd=ROOT)
    while len(losses(stopped)) < 7 and process.poll() is None:  # two steps after the first checkpoint
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = losses(stopped)
    assert 7 <= len(before) < 40, "the kill came too late to show anything"
    again = subprocess.run(command(shards, stopped), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    resumed = re.search(r"resuming after step (\d+) of 40", again.stdout)
    assert resumed is not None
    repeated = int(resumed[1]) + 1
    after = losses(stopped)
    if repeated in before:  # unless the kill came right after a checkpoint
        assert after[repeated] == pytest.approx(before[repeated], rel=1e-3)
    assert list(after) == list(range(1, 41))
    assert after[40] == pytest.approx(losses(whole)[40], rel=1e-2)


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
