"""LARS (You et al. 2017) as in SimCLR's reference code."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """SGD with momentum, in which each weight's step is scaled by the ratio of its norm to its gradient's.

        g += wd * w;  trust = c * |w| / |g|, or 1 if either is 0;  v = m * v + lr * trust * g;  w -= v

    The learning rate is inside the momentum buffer, as in the reference code: under a changing rate the path differs
    from that of implementations which multiply it in afterwards. Nothing waits for the device.

    A parameter group with `adapt=False` has trust = 1: biases and BatchNorm, which also get `weight_decay=0`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        adapt: bool = True,
    ) -> None:
        """Set the defaults of parameter groups.

        Args:
            params: parameters or groups.
            lr: > 0, or 0 at the start of a warm-up.
            momentum: m in [0, 1].
            weight_decay: wd >= 0, L2 strength.
            trust_coefficient: c; 0.001 in the reference code.
            adapt: scale by the trust ratio.
        """
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "adapt": adapt,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # the parent overloads on the closure
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _update(parameter, self.state[parameter], group)
        return loss


def _update(w: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    g = w.grad
    if g is None:
        return
    if group["weight_decay"]:
        g = g.add(w, alpha=group["weight_decay"])
    if "momentum" not in state:
        state["momentum"] = torch.zeros_like(w)
    v = state["momentum"].mul_(group["momentum"])
    if group["adapt"]:
        w_norm, g_norm = torch.linalg.vector_norm(w), torch.linalg.vector_norm(g)
        trust = group["trust_coefficient"] * w_norm / g_norm
        trust = torch.where((w_norm > 0) & (g_norm > 0), trust, torch.ones_like(trust))
        v.addcmul_(g, group["lr"] * trust)
    else:
        v.add_(g, alpha=group["lr"])
    w.sub_(v)
