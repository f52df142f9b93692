"""BatchNorm whose statistics are those of the global batch, on any device.

CUDA uses torch's SyncBatchNorm; the CPU, where torch has none, ours. Names in the state dict do not change, and what
timm fuses into its BatchNormAct2d (drop, act) is kept.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import BatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.collectives import all_reduce, world_size

_PLAIN = "diptych_plain_class"
"""Attribute of a global BatchNorm: the class that it was made from."""


def with_global_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm by one over all ranks; with one rank the module is returned as it is.

    Call it before the module is wrapped for distributed training. Parameters and buffers are shared.
    """
    if world_size() == 1:
        return module
    return convert(module, device)


def convert(module: nn.Module, device: torch.device) -> nn.Module:
    """The same, however many ranks there are."""
    return _replace(module, _is_plain, _sync if device.type == "cuda" else _global)


def with_plain_batchnorm(module: nn.Module) -> nn.Module:
    """The way back: every BatchNorm of `with_global_batchnorm` becomes what it was, sharing parameters and buffers."""
    return _replace(module, lambda child: hasattr(child, _PLAIN), _plain)


def has_batchnorm(module: nn.Module) -> bool:
    """Whether a sample's output depends on the others of its batch."""
    return any(isinstance(child, _BatchNorm) for child in module.modules())


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm of (B, C, ...) over all ranks, in float32 at least (float64 stays float64).

    Two passes, mean then centred second moment, which does not cancel. `drop` and `act` hold what timm fuses into its
    BatchNormAct2d. As in torch, `track_running_stats = False` set for a while leaves the running statistics alone.
    """

    def __init__(
        self, features: int, eps: float, momentum: float | None, *, affine: bool, track_running_stats: bool = True
    ) -> None:
        super().__init__(features, eps, momentum, affine, track_running_stats)
        self.drop: nn.Module = nn.Identity()
        self.act: nn.Module = nn.Identity()

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  # the parent's name
        if input.dim() < 2:
            raise ValueError(f"expected (B, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the parent's name
        """Normalise (B, C, ...) by the statistics of all ranks' batches, or as plain BatchNorm in eval mode.

        Raises:
            ValueError: a channel has a single value in all, whose variance is not defined.
        """
        if not self.training:  # without running statistics too, as SyncBatchNorm: one rank may evaluate alone
            normalised: Tensor = self.act(self.drop(super().forward(input)))
            return normalised
        self._check_input_dim(input)
        shape = [1, -1] + [1] * (input.dim() - 2)
        dims = [d for d in range(input.dim()) if d != 1]
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        everywhere = x.numel() // x.shape[1] * world_size()  # values per channel; ranks hold equally many
        if everywhere == 1:
            raise ValueError(f"expected more than 1 value per channel when training, got {tuple(input.shape)}")
        mean = all_reduce(x.sum(dims)) / everywhere
        centred = x - mean.view(shape)
        variance = all_reduce((centred * centred).sum(dims)) / everywhere
        if self.training and self.track_running_stats:
            self._update_running(mean.detach(), variance.detach() * (everywhere / (everywhere - 1)))
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        activated: Tensor = self.act(self.drop(y.to(input.dtype)))
        return activated

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def _replace(module: nn.Module, chosen: Callable[[nn.Module], bool], made_of: Callable[[Any], nn.Module]) -> nn.Module:
    """Put another module in the place of each that is chosen; one that is used in several places stays one."""
    made = {child: made_of(child) for child in module.modules() if chosen(child)}
    for parent in list(module.modules()):
        for name, child in parent._modules.items():  # named_children() leaves out a module's second name
            if child in made:
                parent._modules[name] = made[child]
    return made.get(module, module)


def _is_plain(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and not hasattr(module, _PLAIN)


def _global(plain: Any) -> nn.Module:
    new = GlobalBatchNorm(
        plain.num_features,
        plain.eps,
        plain.momentum,
        affine=plain.affine,
        track_running_stats=plain.track_running_stats,
    )
    if isinstance(plain, BatchNormAct2d):
        new.drop, new.act = plain.drop, plain.act
    return _with_state_of(plain, new, type(plain))


def _sync(plain: Any) -> nn.Module:
    # timm's converter, because torch's drops the activation inside timm's BatchNormAct2d.
    new: nn.Module = convert_sync_batchnorm(plain)
    return _with_state_of(plain, new, type(plain))


def _plain(converted: Any) -> nn.Module:
    plain_class = getattr(converted, _PLAIN)
    new = plain_class(
        converted.num_features,
        eps=converted.eps,
        momentum=converted.momentum,
        affine=converted.affine,
        track_running_stats=converted.track_running_stats,
    )
    if isinstance(converted, GlobalBatchNorm | SyncBatchNormAct) and isinstance(new, BatchNormAct2d):
        new.drop, new.act = converted.drop, converted.act
    return _with_state_of(converted, new, None)


def _with_state_of(old: Any, new: Any, plain_class: type | None) -> nn.Module:
    """Share parameters and buffers; remember the class to which there is a way back."""
    new.weight, new.bias = old.weight, old.bias
    new.running_mean, new.running_var = old.running_mean, old.running_var
    new.num_batches_tracked = old.num_batches_tracked
    if plain_class is not None:
        setattr(new, _PLAIN, plain_class)
    module: nn.Module = new.train(old.training)
    return module
