"""Ports, versions, compiler and device of this node."""

import os
import platform
import shutil
import socket
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from model.native_precision import native_precision
from ops.doctor.config import DoctorConfig
from ops.doctor.finding import Finding, doubtful, fine, wrong
from ops.doctor.hardware import driver_version

_LEAST_DRIVER = 580
"""Of NVIDIA: what CUDA 13 asks for, which torch and DALI are built with."""
_HOST_COMPILERS = ("gcc", "clang")
"""That Triton looks for, after CC."""


def check_ports(config: DoctorConfig) -> list[Finding]:
    """Try to listen where this rank's metrics will be."""
    if not config.metrics.port:
        return [fine("port", "metrics.port = 0: no metrics are served")]
    address = config.metrics.address
    port = config.metrics.port + int(os.environ.get("LOCAL_RANK", "0"))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the exporter does
            listener.bind((address, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        what = f"{address}:{port}: {reason}; the run would have no metrics: choose another --metrics.port or 0 for none"
        return [wrong("port", what)]
    return [fine("port", f"{address}:{port} is free for metrics")]


def check_versions(config: DoctorConfig) -> list[Finding]:
    """What is installed against the ranges that the project declares."""
    try:
        python, needed = metadata("diptych")["Requires-Python"], requires("diptych") or []
    except PackageNotFoundError:
        return [doubtful("version", "diptych is not installed, so that no ranges are known; `pip install -e .`")]
    remote = "remote" if "://" in config.data.dir else ""
    bad = [*_out_of_range([Requirement(text) for text in needed], remote)]
    if not SpecifierSet(python).contains(platform.python_version()):
        bad.append(f"Python {platform.python_version()}, {python} is wanted")
    if bad:
        return [wrong("version", f"{'; '.join(bad)}; `pip install -c constraints.txt -e .`")]
    told = ", ".join(f"{name} {version(name)}" for name in ("torch", "nvidia-dali-cuda130", "accelerate"))
    return [fine("version", f"{told} and all others are in their ranges")]


def check_compiler(config: DoctorConfig) -> list[Finding]:
    """What torch.compile needs, where it is asked for."""
    asked = [name for name, on in (("compile", config.compile), ("views.compile", config.views.compile)) if on]
    if not asked:
        return [fine("compiler", "not needed: nothing is compiled")]
    which = " and ".join(asked)
    if _uses_cuda(config):
        named = os.environ.get("CC", "")
        found = shutil.which(named) if named else next(filter(None, map(shutil.which, _HOST_COMPILERS)), None)
        wanted = named or "gcc or clang"
    else:
        wanted = os.environ.get("CXX", "g++")
        found = shutil.which(wanted)
    if found:
        return [fine("compiler", f"{found}, for {which} = true")]
    return [
        wrong("compiler", f"{wanted} is missing, for {which} = true; install it (apt install g++) or do not compile")
    ]


def check_device(config: DoctorConfig) -> list[Finding]:
    """Is the device that is asked for there, with a driver that is new enough?"""
    import torch

    driver, there = driver_version(), torch.cuda.is_available()
    if driver and int(driver.partition(".")[0]) < _LEAST_DRIVER and config.device != "cpu":
        return [wrong("device", f"NVIDIA driver {driver}: CUDA 13 needs {_LEAST_DRIVER} or newer; update the driver")]
    if config.device == "cuda" and not there:
        return [wrong("device", "device = cuda: torch finds no CUDA device; use device = cpu or check the driver")]
    if driver and not there and config.device == "auto":
        what = (
            f"NVIDIA driver {driver} is here, but torch finds no device; the run would be on the CPU: check the driver"
        )
        return [doubtful("device", what)]
    if config.precision == "fp16" and not _uses_cuda(config):
        return [wrong("device", "precision = fp16: needs CUDA; use bf16 or fp32 on the CPU")]
    if _uses_cuda(config):
        local_rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= count:
            return [
                wrong("device", f"local rank {local_rank}, but {count} CUDA devices; start fewer ranks on this node")
            ]
        return [fine("device", f"{torch.cuda.get_device_name(local_rank)}, driver {driver or 'unknown'}")]
    if config.precision == "bf16" and native_precision("cpu") != "bf16":
        what = "precision = bf16: this CPU has no instructions for it; fp32 may be several times as fast"
        return [doubtful("device", what)]
    return [fine("device", f"CPU, {len(os.sched_getaffinity(0))} cores; no GPU is used")]


def _uses_cuda(config: DoctorConfig) -> bool:
    import torch

    return config.device != "cpu" and torch.cuda.is_available()


def _out_of_range(needed: list[Requirement], extra: str) -> Iterator[str]:
    for requirement in needed:
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            there = version(requirement.name)
        except PackageNotFoundError:
            if "extra" not in str(requirement.marker):  # one protocol's package is enough, and its lack is told by data
                yield f"{requirement.name} is not installed"
            continue
        if not requirement.specifier.contains(there, prereleases=True):
            yield f"{requirement.name} {there}, {requirement.specifier} is wanted"
