"""Float32 where it matters, whatever the rest of the run allows itself."""

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32(device: torch.device) -> Generator[None, None, None]:
    """No autocast on the device, and no TF32 in matrix products and convolutions, inside."""
    matmul, conv = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, conv
