"""The optimizer that the configuration asks for, over parameter groups with the paper's exemptions."""

import difflib
from typing import Any

import timm.optim
import torch
from torch import nn
from torch.optim import Optimizer

from train.config import OptimizerConfig
from train.errors import RunError
from train.lars import LARS


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """Create the optimizer with learning rate 0; the loop writes the rate of each step.

    Weights (two and more dimensions) decay and, under LARS, are adapted; biases and BatchNorm parameters neither.

    Raises:
        RunError: timm has no such optimizer, or cannot make it.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "lars":
        groups[1]["adapt"] = False
        return LARS(groups, lr=0.0, momentum=config.momentum, trust_coefficient=config.trust_coefficient)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0)
    return _of_timm(config, groups)


def _of_timm(config: OptimizerConfig, groups: list[dict[str, Any]]) -> Optimizer:
    name = config.name.removeprefix("timm:")
    if name not in timm.optim.list_optimizers():
        near = difflib.get_close_matches(name, timm.optim.list_optimizers(), n=1)
        raise RunError(
            f"optimizer.name = {config.name}: timm.optim has none of that name"
            + (f"; did you mean timm:{near[0]}?" if near else "")
        )
    try:
        optimizer: Optimizer = timm.optim.create_optimizer_v2(
            groups, opt=name, lr=0.0, weight_decay=0.0, momentum=config.momentum
        )
    except (TypeError, ValueError, ImportError, AssertionError) as error:
        raise RunError(f"optimizer.name = {config.name}: {' '.join(str(error).split())}") from None
    return optimizer


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Write the rate into every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
