"""The optimizer that the configuration asks for, over parameter groups with the paper's exemptions."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from train.config import OptimizerConfig
from train.lars import LARS


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """Create the optimizer with learning rate 0; the loop writes the rate of each step.

    Weights (two and more dimensions) decay and, under LARS, are adapted; biases and BatchNorm parameters neither.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "lars":
        groups[1]["adapt"] = False
        return LARS(groups, lr=0.0, momentum=config.momentum)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=0.0)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Write the rate into every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
