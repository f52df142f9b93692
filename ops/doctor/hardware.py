"""The machine and the versions of what runs on it."""

import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ops.bench.tables import machine

_LIBRARIES = ("diptych", "torch", "nvidia-dali-cuda130", "accelerate", "timm", "kornia", "numpy")


def hardware() -> dict[str, Any]:
    """Processor, cores that we may use, memory and GPUs."""
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        **machine(),
        "host": platform.node(),
        "memory_bytes": memory_bytes("MemTotal"),
        "gpus": gpus,
        "driver": driver_version(),
    }


def versions() -> dict[str, str]:
    """Of the libraries that do the work; empty text for one that is not installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def driver_version() -> str:
    """Of NVIDIA's kernel driver, such as 580.95.05; empty where there is none."""
    try:
        told = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        told = None
    if told:
        return told[1]
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    done = subprocess.run(  # noqa: S603  # found on the path
        [command, "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return done.stdout.split("\n")[0].strip() if done.returncode == 0 else ""


def memory_bytes(field: str) -> int:
    """A line of /proc/meminfo, such as MemTotal or MemAvailable."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
