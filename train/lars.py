"""LARS (You et al. 2017) as in SimCLR's reference code."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_ALIGNMENT = 4
"""In values; GPUs load that many at once where a tensor begins at a multiple of them."""

_Kind = tuple[int, torch.device, torch.dtype]
"""Number of the group, device and type."""


class LARS(Optimizer):
    """SGD with momentum, in which each weight's step is scaled by the ratio of its norm to its gradient's.

        g += wd * w;  trust = c * |w| / |g|, or 1 if either is 0;  v = m * v + lr * trust * g;  w -= v

    The learning rate is inside the momentum buffer, as in the reference code: under a changing rate the path differs
    from that of implementations which multiply it in afterwards. Nothing waits for the device. Weight decay is added to
    `.grad` in place, and so is the division by the gradient scale: drop gradients after the step.

    A parameter group with `adapt=False` has trust = 1: biases and BatchNorm, which also get `weight_decay=0`.

    Two ways to the same numbers, because memory costs on a CPU what launches cost on a GPU. On the CPU one weight goes
    through all of the rule before the next, while it is in cache. On CUDA all weights of a group take each step
    together; what differs between them, the trust ratio, is spread over one flat buffer, since torch multiplies a list
    of tensors by a list of scalars in one launch each. That way holds a second buffer of the gradients' size.

    Under fp16's gradient scaler, an update whose gradient overflowed leaves weights and momentum bitwise as they were;
    that is decided on the device.
    """

    found_inf: Tensor | None = None
    """0-d, on the device: above 0 the step leaves everything as it is. torch's gradient scaler sets and deletes it."""
    _step_supports_amp_scaling = True  # the scaler then sets grad_scale and found_inf instead of waiting for them

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        adapt: bool = True,
        flat: bool | None = None,
    ) -> None:
        """Set the defaults of parameter groups.

        Args:
            params: parameters, float32 or float64, or groups of them.
            lr: > 0, or 0 at the start of a warm-up.
            momentum: m in [0, 1].
            weight_decay: wd >= 0, L2 strength.
            trust_coefficient: c; 0.001 in the reference code.
            adapt: scale by the trust ratio.
            flat: all weights together instead of one after another; unset, on CUDA.

        Raises:
            ValueError: a parameter has another type, here or in `add_param_group`.
        """
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "adapt": adapt,
        }
        super().__init__(params, defaults)
        self._flat = flat
        self._buffers: dict[_Kind, _FlatMomentum] = {}
        self._norms: list[tuple[Tensor, float]] = []

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as the parent does, of float32 or float64 parameters only."""
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if parameter.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"LARS: a parameter is {parameter.dtype}; keep weights in float32 under autocast")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # the parent overloads on the closure
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale: Tensor | None = getattr(self, "grad_scale", None)
        found_inf = self.found_inf
        self._norms = []
        for number, group in enumerate(self.param_groups):
            for kind, weights in _by_kind(number, group["params"]).items():
                device = weights[0].device
                gradients = [weight.grad for weight in weights if weight.grad is not None]
                if scale is not None:
                    torch._foreach_div_(gradients, scale.to(device))
                skip = None if found_inf is None else found_inf.to(device) > 0
                if device.type == "cuda" if self._flat is None else self._flat:
                    norms = _update_together(group, weights, gradients, self._momentum(kind, weights), skip)
                else:
                    norms = _update_one_by_one(group, weights, gradients, self.state, skip)
                self._norms += [(each, group["trust_coefficient"]) for each in norms]
        return loss

    def largest_trust(self) -> Tensor | None:
        """Largest trust ratio of the last update, a scalar on the device; None if nothing was adapted.

        Weights whose norm or gradient is 0 do not count.
        """
        if not self._norms:
            return None
        device = self._norms[0][0].device
        ratios = [torch.where(norms.amin(0) > 0, c * norms[0] / norms[1], 0).amax() for norms, c in self._norms]
        return torch.stack([ratio.to(device) for ratio in ratios]).amax()

    def _momentum(self, kind: "_Kind", weights: list[Tensor]) -> "_FlatMomentum":
        """The flat buffer behind the momenta of these weights; made anew if others took their place."""
        known = self._buffers.get(kind)
        if known is None or not known.is_behind(weights, self.state):
            known = self._buffers[kind] = _flat_momentum(weights, self.state)
        return known


def _by_kind(number: int, parameters: list[Tensor]) -> dict["_Kind", list[Tensor]]:
    """Those with a gradient, apart by what cannot share a buffer."""
    kinds: dict[_Kind, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            kinds.setdefault((number, parameter.device, parameter.dtype), []).append(parameter)
    return kinds


def _update_one_by_one(
    group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor], states: Any, skip: Tensor | None
) -> list[Tensor]:
    """Apply the rule to one weight after another; returns the norms of each adapted weight and its gradient, (2,)."""
    norms = []
    for w, g in zip(weights, gradients, strict=True):
        state = states[w]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(w)
        if group["weight_decay"]:
            g.add_(w, alpha=group["weight_decay"])
        v = state["momentum"] if skip is None else state["momentum"].clone()
        v.mul_(group["momentum"])
        if group["adapt"]:
            norms.append(torch.stack([torch.linalg.vector_norm(w), torch.linalg.vector_norm(g)]))
            v.addcmul_(g, _trust(norms[-1], group["trust_coefficient"]).mul_(group["lr"]))
        else:
            v.add_(g, alpha=group["lr"])
        if skip is None:
            w.sub_(v)
        else:  # what overflowed is nowhere multiplied: 0 times inf is not 0
            w.copy_(torch.where(skip, w, w - v))
            state["momentum"].copy_(torch.where(skip, state["momentum"], v))
    return norms


def _update_together(
    group: dict[str, Any],
    weights: list[Tensor],
    gradients: list[Tensor],
    momentum: "_FlatMomentum",
    skip: Tensor | None,
) -> list[Tensor]:
    """Apply each step of the rule to all weights of a group; returns the norms of weights and gradients, (2, n)."""
    if group["weight_decay"]:
        torch._foreach_add_(gradients, weights, alpha=group["weight_decay"])
    torch._foreach_copy_(momentum.scratch_views, gradients)
    v = momentum.flat if skip is None else momentum.flat.clone()
    v.mul_(group["momentum"])
    norms = []
    if group["adapt"]:
        norms = [torch.stack(torch._foreach_norm([*weights, *gradients])).view(2, -1)]
        rate = _trust(norms[0], group["trust_coefficient"]).mul_(group["lr"])
        v.addcmul_(momentum.scratch, rate.index_select(0, momentum.owner))
    else:
        v.add_(momentum.scratch, alpha=group["lr"])
    if skip is None:
        torch._foreach_sub_(weights, momentum.views)
        return norms
    momentum.flat.copy_(torch.where(skip, momentum.flat, v))
    momentum.scratch.copy_(torch.where(skip, 0, v))
    torch._foreach_sub_(weights, momentum.scratch_views)
    return norms


def _trust(norms: Tensor, coefficient: float) -> Tensor:
    """Trust ratios from norms of weights and of gradients, (2, ...); 1 where either norm is 0."""
    return torch.where(norms.amin(0) > 0, norms[0].mul(coefficient).div_(norms[1]), 1.0)


@dataclass(frozen=True, kw_only=True)
class _FlatMomentum:
    """Momenta of a group's weights in one buffer; each optimizer state holds a view of it, laid out as its weight."""

    flat: Tensor
    views: list[Tensor]
    scratch: Tensor
    """For the gradients, arranged alike; kept, so that a step makes no views."""
    scratch_views: list[Tensor]
    owner: Tensor
    """int32, of each value in `flat` the number of its weight; kept, since to work it out takes as long as all else."""
    weights: list[Tensor]

    def is_behind(self, weights: list[Tensor], states: Any) -> bool:
        """Whether these weights' states are still the views."""
        return len(weights) == len(self.weights) and all(
            ours is theirs and states[theirs].get("momentum") is view
            for ours, theirs, view in zip(self.weights, weights, self.views, strict=True)
        )


def _flat_momentum(weights: list[Tensor], states: Any) -> _FlatMomentum:
    """Move the momenta that there are into one buffer; the others start at zero."""
    lengths = [-(-_extent(weight) // _ALIGNMENT) * _ALIGNMENT for weight in weights]
    flat = torch.zeros(sum(lengths), dtype=weights[0].dtype, device=weights[0].device)
    views = []
    start = 0
    for weight, length in zip(weights, lengths, strict=True):
        view = flat.as_strided(weight.size(), weight.stride(), start)
        if "momentum" in states[weight]:
            view.copy_(states[weight]["momentum"])
        states[weight]["momentum"] = view
        views.append(view)
        start += length
    scratch = torch.zeros_like(flat)  # what lies between weights stays 0
    return _FlatMomentum(
        flat=flat,
        views=views,
        scratch=scratch,
        scratch_views=[scratch.as_strided(view.size(), view.stride(), view.storage_offset()) for view in views],
        owner=torch.cat([torch.full((n,), i, dtype=torch.int32, device=flat.device) for i, n in enumerate(lengths)]),
        weights=weights,
    )


def _extent(tensor: Tensor) -> int:
    """Values from a tensor's first to its last in memory."""
    if not tensor.numel():
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
