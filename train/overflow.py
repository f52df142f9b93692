"""fp16 only: has a gradient overflowed? Known on the device, and the same on all ranks, whose gradients are equal."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def overflowed(scaler: Any, optimizer: Optimizer) -> Tensor:
    """Undo the gradient scaler's scale, and look for what is not finite.

    The optimizer's step then sees true gradients, and leaves weights and momentum alone where the answer is 1.

    Args:
        scaler: torch.amp.GradScaler.
        optimizer: torch's, not what Accelerate wraps around it.

    Returns:
        0-d float tensor on the device, 1 or 0.
    """
    scaler.unscale_(optimizer)
    # No public function of the scaler tells this without waiting for the device.
    return torch.cat([flag.reshape(1) for flag in scaler._found_inf_per_device(optimizer).values()]).amax()
