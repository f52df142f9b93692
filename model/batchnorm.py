"""BatchNorm whose statistics are those of the global batch, on any device.

CUDA uses torch's SyncBatchNorm; the CPU, where torch has none, ours. Names in the state dict do not change.
"""

from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.collectives import all_reduce, world_size


def with_global_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm by one over all ranks; with one rank the module is returned as it is.

    timm's converter is used on CUDA because torch's drops the activation inside timm's BatchNormAct2d.
    """
    if world_size() == 1:
        return module
    if device.type == "cuda":
        converted: nn.Module = convert_sync_batchnorm(module)
        return converted
    return _convert(module)


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm of (B, C, ...) over all ranks, in float32 at least (float64 stays float64).

    Two passes, mean then centred second moment, which does not cancel. `drop` and `act` hold what timm fuses into its
    BatchNormAct2d.
    """

    def __init__(self, features: int, eps: float, momentum: float | None, *, affine: bool) -> None:
        super().__init__(features, eps=eps, momentum=momentum, affine=affine)
        self.drop: nn.Module = nn.Identity()
        self.act: nn.Module = nn.Identity()

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  # the parent's name
        if input.dim() < 2:
            raise ValueError(f"expected (B, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the parent's name
        """Normalise (B, C, ...) by the statistics of all ranks' batches, or by the running ones in eval mode."""
        if not self.training:
            normalised: Tensor = self.act(self.drop(super().forward(input)))
            return normalised
        shape = [1, -1] + [1] * (input.dim() - 2)
        dims = [d for d in range(input.dim()) if d != 1]
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        count = x.new_full((1,), x.numel() / x.shape[1])
        total = all_reduce(torch.cat([x.sum(dims), count]))
        everywhere = total[-1].detach()  # values per channel over all ranks
        mean = total[:-1] / everywhere
        centred = x - mean.view(shape)
        variance = all_reduce((centred * centred).sum(dims)) / everywhere
        self._update_running(mean.detach(), (variance * everywhere / (everywhere - 1)).detach())
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


def _convert(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm):
        return _converted(module)
    for name, child in module.named_children():
        setattr(module, name, _convert(child))
    return module


def _converted(batchnorm: Any) -> GlobalBatchNorm:
    """A GlobalBatchNorm that shares the parameters and buffers of a BatchNorm."""
    new = GlobalBatchNorm(batchnorm.num_features, batchnorm.eps, batchnorm.momentum, affine=batchnorm.affine)
    new.weight, new.bias = batchnorm.weight, batchnorm.bias
    new.running_mean, new.running_var = batchnorm.running_mean, batchnorm.running_var
    new.num_batches_tracked = batchnorm.num_batches_tracked
    new.drop, new.act = getattr(batchnorm, "drop", new.drop), getattr(batchnorm, "act", new.act)
    return new.train(batchnorm.training)
