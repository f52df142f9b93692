import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import batchnorm_on_ranks
import pytest
import timm
import torch
from rank_pool import RankPool
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from model.batchnorm import convert
from model.compiled import graph_breaks
from model.running_statistics import RunningStatistics, frozen_statistics

KINDS: dict[str, Callable[[], Any]] = {
    "torch": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(144)),
    "global": lambda: convert(KINDS["torch"](), torch.device("cpu")),
    "sync": lambda: convert(KINDS["torch"](), torch.device("cuda")),  # one process: on the CPU it computes as the plain
    "fused sync": lambda: convert(KINDS["timm"](), torch.device("cuda")),
    "timm": lambda: timm.create_model("efficientnet_b0", num_classes=0, drop_rate=0.0, drop_path_rate=0.0),
    "none": lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(192)),
}


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def buffers(model: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in model.buffers()]


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_statistics_do_not_move_and_the_output_is_that_of_training(kind: str) -> None:
    torch.manual_seed(0)
    model = KINDS[kind]().train()
    before, trained = buffers(model), copy.deepcopy(model)
    with frozen_statistics(model):
        y = model(images())
    assert equal(buffers(model), before)
    assert torch.equal(y, trained(images()))
    model(images())
    assert equal(buffers(model), buffers(trained))  # it moves again afterwards


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_come_back_as_they_were_copied(kind: str) -> None:
    model = KINDS[kind]()
    statistics = RunningStatistics(model)
    model(images())
    before, snapshot = buffers(model), statistics.copy()
    model(images(1))
    statistics.restore(snapshot)
    assert equal(buffers(model), before)
    with statistics.kept():
        model(images(2))
    assert equal(buffers(model), before)


@pytest.mark.parametrize("kind", ["torch", "global", "sync"])
def test_statistics_freeze_and_thaw_in_a_compiled_model(kind: str) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    model = KINDS[kind]()
    eager = copy.deepcopy(model)
    model.compile(backend="aot_eager")
    contexts: list[Callable[[nn.Module], Any]] = [nullcontext, frozen_statistics]
    for step, context in enumerate(contexts * 2):
        before = buffers(model)
        with context(model), context(eager):
            assert torch.allclose(model(images(step)), eager(images(step)), atol=1e-5)
        assert equal(buffers(model), before) == (context is frozen_statistics)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(model.buffers(), eager.buffers(), strict=True))


def test_a_graph_break_is_counted() -> None:
    def broken(x: Tensor) -> Tensor:
        x = x + 1
        torch._dynamo.graph_break()
        return x + 1

    before = graph_breaks()
    torch.compile(broken, backend="eager")(torch.ones(2))
    assert graph_breaks() == before + 1


def test_statistics_are_put_back_when_backward_fails() -> None:
    model: Any = nn.BatchNorm1d(3)
    with pytest.raises(RuntimeError, match="out of memory"), RunningStatistics(model).kept():
        model(torch.randn(4, 3))
        raise RuntimeError("out of memory")
    assert model.num_batches_tracked == 0


@pytest.mark.parametrize("flag", [0.0, 1.0])
def test_statistics_come_back_where_the_flag_is_set_even_from_nan(flag: float) -> None:
    model: Any = KINDS["torch"]()
    statistics = RunningStatistics(model)
    before, snapshot = buffers(model), statistics.copy()
    model(images() * torch.nan)
    after = buffers(model)
    statistics.restore_if(torch.tensor(flag), snapshot)
    if flag:
        assert equal(buffers(model), before)
    else:
        assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(model.buffers(), after, strict=True))
    assert model[1].running_mean.isnan().all() == (not flag)


def test_nothing_waits_for_the_device() -> None:
    with FakeTensorMode():
        model = KINDS["torch"]()
        statistics = RunningStatistics(model)
        statistics.restore_if(torch.zeros(()), statistics.copy())


def test_averaged_statistics_are_the_mean_over_ranks(two_ranks: RankPool) -> None:
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = x.chunk(2)
    for mean, variance, batches in two_ranks.run(batchnorm_on_ranks.averaged_statistics, x):
        assert torch.allclose(mean, 0.1 * x.mean(0))
        assert torch.allclose(variance, 0.9 + 0.05 * (parts[0].var(0) + parts[1].var(0)))
        assert batches == 1
