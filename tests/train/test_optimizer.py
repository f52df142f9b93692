from typing import Any

import pytest
import torch
from torch import nn

from train.config import OptimizerConfig
from train.errors import RunError
from train.lars import LARS
from train.optimizer import build_optimizer, set_learning_rate


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    model[1].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw", "timm:lamb", "timm:lars"])
def test_biases_and_batchnorm_are_exempt_from_decay_and_adaptation(name: str) -> None:
    model: Any = small_model()
    optimizer = build_optimizer(OptimizerConfig(name=name, weight_decay=0.1), model)
    decayed, exempt = optimizer.param_groups
    assert decayed["params"] == [model[0].weight, model[3].weight]
    assert decayed["weight_decay"] == 0.1
    assert exempt["params"] == [model[0].bias, model[1].weight, model[3].bias]
    assert exempt["weight_decay"] == 0
    if isinstance(optimizer, LARS):
        assert decayed["adapt"]
        assert not exempt["adapt"]


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw", "timm:lamb", "timm:adopt"])
def test_the_rate_that_is_written_is_the_rate_of_the_update(name: str) -> None:
    model: Any = small_model()
    optimizer = build_optimizer(OptimizerConfig(name=name), model)
    moved = []
    for rate in (0.0, 0.5, 0.5):
        before = model[3].weight.detach().clone()
        model(torch.ones(2, 3, 3, 3)).sum().backward()
        set_learning_rate(optimizer, rate)
        optimizer.step()
        optimizer.zero_grad()
        moved.append(not torch.equal(model[3].weight, before))
    assert moved[0] is False
    assert moved[2] is True


def test_momentum_and_trust_coefficient_are_those_of_the_configuration() -> None:
    optimizer = build_optimizer(OptimizerConfig(momentum=0.8, trust_coefficient=0.01), small_model())
    assert all(group["momentum"] == 0.8 for group in optimizer.param_groups)
    assert all(group["trust_coefficient"] == 0.01 for group in optimizer.param_groups)


def test_an_optimizer_that_timm_lacks_is_refused_with_the_nearest() -> None:
    with pytest.raises(RunError, match=r"timm:lambb: timm\.optim has none of that name; did you mean timm:lamb"):
        build_optimizer(OptimizerConfig(name="timm:lambb"), small_model())


def test_an_optimizer_of_no_kind_is_refused_before_anything_is_built() -> None:
    with pytest.raises(ValueError, match=r"optimizer.name = adam: not one of lars, sgd, adamw, timm:NAME"):
        OptimizerConfig(name="adam")
