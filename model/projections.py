"""Rows of projections as the losses and the health numbers want them."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Float32, or float64 if it is that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_rows(z: Tensor) -> Tensor:
    """Divide each row of (n, D) by its norm. A row of zeros stays zero, and its gradient is passed on as it comes."""
    norm = torch.linalg.vector_norm(z.detach(), dim=1, keepdim=True)
    is_zero = norm == 0
    # Zero rows are left out before the norm: its derivative there is not finite.
    safe = torch.where(is_zero, torch.ones_like(z), z)
    length = torch.where(is_zero, torch.ones_like(norm), torch.linalg.vector_norm(safe, dim=1, keepdim=True))
    return z / length
