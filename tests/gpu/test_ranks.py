"""Two ranks on two CUDA devices; `make gpu-check`."""

import multiprocessing
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_rank_functions
import pytest
import torch
from gpu_setting import needs_two

from model.batchnorm import convert
from model.loss import nt_xent

pytestmark = needs_two


def on_two_ranks(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Results by rank of a function in gpu_rank_functions.py, each in a process of its own, as a launcher starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        tasks = [(function, rank, port, arguments) for rank in range(2)]
        return pool.starmap(gpu_rank_functions.launched, tasks, chunksize=1)


def under_nccl(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The same of a function that wants the ranks to have met."""
    return on_two_ranks(gpu_rank_functions.under_nccl, function, *arguments)


def test_nt_xent_over_nccl_is_that_of_one_process() -> None:
    z = torch.randn(64, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    whole = nt_xent(z, 0.2)
    whole.backward()
    answers = under_nccl(gpu_rank_functions.loss_and_gradient, z.detach())
    assert sum(loss for loss, _ in answers) / 2 == pytest.approx(whole.item(), rel=1e-10)
    halves = [gradient.chunk(2) for _, gradient in answers]
    assert z.grad is not None
    gradient = torch.cat([torch.cat([half[view] for half in halves]) for view in range(2)])
    assert torch.allclose(gradient, z.grad, rtol=1e-9, atol=1e-12)


def test_sync_batchnorm_is_ours() -> None:
    generator = torch.Generator().manual_seed(0)
    x, upstream = torch.randn(2, 8, 6, 5, 5, generator=generator)
    module = torch.nn.BatchNorm2d(6)
    torch.nn.init.uniform_(module.weight)
    ours = convert(module, torch.device("cpu"))  # with one rank, on the whole batch
    whole = x.clone().requires_grad_()
    y = ours(whole)
    (y * upstream).sum().backward()
    answers = under_nccl(gpu_rank_functions.sync_batchnorm, module.weight.detach(), x, upstream)
    assert whole.grad is not None
    assert torch.allclose(torch.cat([answer["output"] for answer in answers]), y.detach(), atol=1e-5)
    assert torch.allclose(torch.cat([answer["gradient"] for answer in answers]), whole.grad, atol=1e-5)
    for answer in answers:
        assert torch.allclose(answer["running_mean"], ours.running_mean, atol=1e-6)  # type: ignore[arg-type]  # a buffer
        assert torch.allclose(answer["running_var"], ours.running_var, atol=1e-6)  # type: ignore[arg-type]  # a buffer


def test_an_update_over_nccl_is_that_of_one_process() -> None:
    views = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    alone = gpu_rank_functions.weights_after_an_update(views)
    for answer in under_nccl(gpu_rank_functions.weights_after_an_update, views):
        for name, tensor in alone.items():
            assert torch.allclose(answer[name].double(), tensor.double(), rtol=1e-7, atol=1e-9), name


def test_a_ranks_context_is_on_its_own_device_alone(shards: Path) -> None:
    assert on_two_ranks(gpu_rank_functions.devices_after_a_step, shards) == [[0], [1]]
