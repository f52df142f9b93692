"""The online probe: a linear classifier of h, trained beside the encoder, which never feels it."""

import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor

from model.collectives import all_reduce
from model.precision import full_float32


class Probe:
    """Softmax regression on h / RMS(h) with Adam; the same on all ranks.

    Rows are scaled to a mean square of 1, so that the learning rate means the same for every encoder. Weights start at
    zero: the probe draws no random number. Its accuracy is that on views which it has not learnt from yet. Nothing here
    waits for the device.
    """

    def __init__(
        self, features: int, classes: int, lr: float, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        """Start from zero.

        Args:
            features: length of h.
            classes: number of labels.
            lr: of Adam.
            device: of h.
            dtype: of weights.
        """
        self.weight = torch.zeros(classes, features, device=device, dtype=dtype, requires_grad=True)
        self.bias = torch.zeros(classes, device=device, dtype=dtype, requires_grad=True)
        self._optimizer = torch.optim.Adam([self.weight, self.bias], lr=lr, capturable=device.type == "cuda")
        self._counted = torch.zeros(2, device=device, dtype=torch.float64)  # named rightly; seen

    @torch.no_grad()
    def update(self, h: Tensor, labels: Tensor, skip: Tensor | None = None) -> None:
        """Count what is named rightly, then learn from it.

        The gradient is that of the mean over the labelled views of the global batch. A batch in which none has a label
        teaches nothing, though Adam's momentum moves the weights on.

        Args:
            h: (2B, F) representations of this rank, without graph; row i + B is another view of image i.
            labels: (B,) int64 on the device of h; -1 where there is none.
            skip: 0-d; above 0 all stays as it was, whatever h holds.
        """
        before = None if skip is None else {name: tensor.clone() for name, tensor in self.state().items()}
        both = labels.repeat(2)
        with full_float32(h.device):
            rows = F.rms_norm(h.to(self.weight.dtype), h.shape[1:])
            logits = F.linear(rows, self.weight, self.bias)
            labelled = both >= 0
            right = (logits.argmax(1) == both) & labelled
            # The cross-entropy's derivative in the logits: softmax, less 1 at the label.
            of_logits = logits.softmax(1)
            of_logits.scatter_add_(1, both.clamp_min(0)[:, None], -torch.ones_like(of_logits[:, :1]))
            of_logits *= labelled[:, None]
            of_weight = of_logits.T @ rows
        # One collective: gradients, and the counts; float32 holds these exactly up to 2^24 views.
        counts = torch.stack([right.sum(), labelled.sum()]).to(rows.dtype)
        reduced = all_reduce(torch.cat([of_weight.flatten(), of_logits.sum(0), counts]))
        # Counted over all ranks at once, so that a checkpoint, which one rank writes, holds what every rank knows.
        self._counted += reduced[-2:]
        mean = reduced[:-2] / reduced[-1].clamp_min(1)
        self.weight.grad = mean[: of_weight.numel()].view_as(of_weight)
        self.bias.grad = mean[of_weight.numel() :]
        self._optimizer.step()
        if before is not None and skip is not None:
            for name, tensor in self.state().items():
                tensor.copy_(torch.where(skip > 0, before.get(name, torch.zeros_like(tensor)), tensor))

    def accuracy(self) -> Tensor:
        """Top-1 in [0, 1] over all ranks since the last call, a scalar on the device; NaN if no view had a label."""
        right, seen = self._counted.unbind()
        self._counted = torch.zeros_like(self._counted)
        return right / seen

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs; `restore` takes it."""
        tensors = {"weight": self.weight.detach(), "bias": self.bias.detach(), "counted": self._counted}
        for name, parameter in (("weight", self.weight), ("bias", self.bias)):
            for key, value in self._optimizer.state[parameter].items():
                tensors[f"{name}/{key}"] = value
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        with torch.no_grad():
            self.weight.copy_(tensors["weight"])
            self.bias.copy_(tensors["bias"])
        self._counted = tensors["counted"].to(self._counted.device, copy=True)
        for name, parameter in (("weight", self.weight), ("bias", self.bias)):
            self._optimizer.state[parameter] = {
                key.removeprefix(f"{name}/"): value.clone().to(parameter.device)
                for key, value in tensors.items()
                if key.startswith(f"{name}/")
            }
