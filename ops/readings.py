"""Numbers that are read when Prometheus asks: room on disks, memory and utilisation of the device."""

import logging
import math
import shutil
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from prometheus_client import Gauge

from ops.metrics import (
    DEVICE_MEMORY,
    DEVICE_POWER,
    DEVICE_TEMPERATURE,
    DEVICE_UTILIZATION,
    DISK_FREE,
    DISK_SIZE,
)
from train.config import PretrainConfig

logger = logging.getLogger(__name__)


def read_disks(config: PretrainConfig) -> list[Gauge]:
    """Room on the file systems of the run directory and of the caches; NaN where they do not answer.

    Returns:
        The gauges that have values from now on.
    """
    places = {"run": Path(config.run_dir), "cache": Path(config.data.cache_dir).expanduser()}
    for place, path in places.items():
        DISK_FREE.labels(place).set_function(partial(_disk, path, "free"))
        DISK_SIZE.labels(place).set_function(partial(_disk, path, "total"))
    return [DISK_FREE, DISK_SIZE]


def read_device(device: torch.device) -> list[Gauge]:
    """Memory of a CUDA device; its utilisation, temperature and power where nvidia-ml-py is installed.

    Returns:
        The gauges that have values from now on.
    """
    if device.type != "cuda":
        return []
    DEVICE_MEMORY.labels("allocated").set_function(partial(torch.cuda.memory_allocated, device))
    DEVICE_MEMORY.labels("reserved").set_function(partial(torch.cuda.memory_reserved, device))
    DEVICE_MEMORY.labels("peak").set_function(partial(torch.cuda.max_memory_allocated, device))
    DEVICE_MEMORY.labels("size").set(torch.cuda.get_device_properties(device).total_memory)
    if find_spec("pynvml") is None:
        return [DEVICE_MEMORY]
    import pynvml

    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"  # numbers differ under CUDA_VISIBLE_DEVICES
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError as error:
        logger.warning("utilisation, temperature and power of the device are not among the metrics (%s)", error)
        return [DEVICE_MEMORY]
    answers: dict[Gauge, Callable[[], float]] = {
        DEVICE_UTILIZATION: lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        DEVICE_TEMPERATURE: lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        DEVICE_POWER: lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    }
    for gauge, ask in answers.items():
        gauge.set_function(partial(_or_nan, ask, pynvml.NVMLError))
    return [DEVICE_MEMORY, *answers]


def _disk(path: Path, what: str) -> float:
    while not path.exists() and path != path.parent:  # a cache's directory is made when it is needed
        path = path.parent
    return _or_nan(lambda: getattr(shutil.disk_usage(path), what), OSError)


def _or_nan(ask: Callable[[], float], error: type[Exception]) -> float:
    """One number that cannot be read must not cost the whole page."""
    try:
        return float(ask())
    except error:
        return math.nan
