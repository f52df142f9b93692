"""The optimizer that the configuration asks for, over parameter groups with the paper's exemptions."""

import difflib
from typing import Any

import timm.optim
import torch
from torch import Tensor, nn
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


def step_unless(optimizer: Any, skip: Tensor | None, scaler: Any) -> None:
    """Update the weights, or leave them and the optimizer's state as they are where `skip` is above 0.

    LARS decides on the device. Other optimizers cannot: for these the host waits for the answer, as torch's gradient
    scaler does.

    Args:
        optimizer: what Accelerate wraps around torch's.
        skip: 0-d on the device; None if nothing can be skipped.
        scaler: torch.amp.GradScaler, which has its own way of telling the optimizer; None without fp16.
    """
    inner = optimizer.optimizer
    if skip is None or scaler is not None:
        optimizer.step()
    elif isinstance(inner, LARS):
        inner.found_inf = skip
        optimizer.step()
    elif not bool(skip > 0):
        optimizer.step()
