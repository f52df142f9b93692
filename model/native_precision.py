"""What `precision = auto` comes to. Nothing here imports torch."""

from functools import cache
from pathlib import Path
from typing import Literal

_GPU_DEVICES = tuple(Path("/dev") / name for name in ("nvidiactl", "kfd", "dxg"))
"""Which the drivers of NVIDIA, AMD and Windows's Linux make."""
_CPU_INFO = Path("/proc/cpuinfo")
_BF16_FEATURES = {"avx512_bf16", "amx_bf16", "bf16"}
"""Instructions that multiply bf16, as Linux calls them on x86 and ARM."""


def native_precision(device: str) -> Literal["fp32", "bf16"]:
    """The faster one: bf16 on GPUs and on CPUs with instructions for it, fp32 on CPUs that would emulate it.

    Args:
        device: cpu, cuda, or auto, which is a GPU where a driver of one is.
    """
    on_gpu = device == "cuda" or (device == "auto" and any(path.exists() for path in _GPU_DEVICES))
    return "bf16" if on_gpu or _cpu_features() & _BF16_FEATURES else "fp32"


@cache
def _cpu_features() -> frozenset[str]:
    """Of the first processor."""
    for line in _CPU_INFO.read_text().splitlines():
        name, _, features = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(features.split())
    return frozenset()
