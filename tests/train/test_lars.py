from typing import Literal

import numpy as np
import pytest
import reference
import torch
from torch import nn

from train.config import OptimizerConfig
from train.lars import LARS
from train.optimizer import build_optimizer, set_learning_rate


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 0.1])
@pytest.mark.parametrize("adapt", [True, False])
def test_ten_updates_under_a_changing_rate_are_the_references(weight_decay: float, adapt: bool) -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 3))
    v = np.zeros_like(w)
    parameter = nn.Parameter(torch.from_numpy(w.copy()))
    optimizer = LARS([parameter], lr=0.0, weight_decay=weight_decay, adapt=adapt)
    for step in range(10):
        g = rng.normal(size=w.shape)
        lr = 0.5 + 3 * np.sin(step)
        w, v = reference.lars(w, v, g, lr=lr, momentum=0.9, weight_decay=weight_decay, adapt=adapt)
        parameter.grad = torch.from_numpy(g)
        set_learning_rate(optimizer, lr)
        optimizer.step()
        assert np.abs(parameter.detach().numpy() - w).max() < 1e-12


@pytest.mark.parametrize(("weight", "gradient"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_a_zero_norm_means_no_adaptation(weight: float, gradient: float) -> None:
    parameter = nn.Parameter(torch.full((3, 2), weight))
    parameter.grad = torch.full((3, 2), gradient)
    LARS([parameter], lr=0.1).step()
    assert torch.allclose(parameter, torch.full((3, 2), weight - 0.1 * gradient))


def test_a_parameter_without_gradient_is_left_alone() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    LARS([parameter], lr=1.0, weight_decay=0.5).step()
    assert torch.equal(parameter, torch.ones(2, 2))


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_biases_and_batchnorm_are_exempt_from_decay_and_adaptation(name: Literal["lars", "sgd", "adamw"]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[1].bias.requires_grad_(False)
    optimizer = build_optimizer(OptimizerConfig(name=name, weight_decay=0.1), model)
    decayed, exempt = optimizer.param_groups
    assert decayed["params"] == [model[0].weight, model[2].weight]
    assert decayed["weight_decay"] == 0.1
    assert exempt["params"] == [model[0].bias, model[1].weight, model[2].bias]
    assert exempt["weight_decay"] == 0
    if name == "lars":
        assert decayed["adapt"]
        assert not exempt["adapt"]
