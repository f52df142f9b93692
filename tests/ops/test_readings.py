import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from prometheus_client import REGISTRY, generate_latest

from ops import metrics, readings
from ops.readings import read_device

CUDA = torch.device("cuda", 0)


class NVMLError(Exception):
    """What nvidia-ml-py raises."""


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A GPU as torch and nvidia-ml-py tell of it; there is none here."""
    properties = SimpleNamespace(total_memory=80e9, uuid="11111111-2222-3333-4444-555555555555")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 3e9)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 5e9)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 4e9)
    library = ModuleType("pynvml")
    answers = {
        "NVMLError": NVMLError,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetUtilizationRates": lambda _handle: SimpleNamespace(gpu=87),
        "nvmlDeviceGetTemperature": lambda _handle, _sensor: 61,
        "nvmlDeviceGetPowerUsage": lambda _handle: 350_000,
    }
    for name, answer in answers.items():
        setattr(library, name, answer)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(readings, "find_spec", lambda _name: object())
    return library


def test_the_device_is_read_when_the_page_is_asked_for(nvml: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(nvml, "nvmlDeviceGetHandleByUUID", asked.append)
    gauges = read_device(CUDA)
    assert asked == ["GPU-11111111-2222-3333-4444-555555555555"]
    assert gauges == [
        metrics.DEVICE_MEMORY,
        metrics.DEVICE_UTILIZATION,
        metrics.DEVICE_TEMPERATURE,
        metrics.DEVICE_POWER,
    ]
    sample = REGISTRY.get_sample_value
    kinds = {"allocated": 3e9, "reserved": 5e9, "peak": 4e9, "size": 80e9}
    assert {kind: sample("diptych_device_memory_bytes", {"kind": kind}) for kind in kinds} == kinds
    assert sample("diptych_device_utilization_ratio") == 0.87
    assert sample("diptych_device_temperature_celsius") == 61
    assert sample("diptych_device_power_watts") == 350
    monkeypatch.setattr(nvml, "nvmlDeviceGetTemperature", lambda _handle, _sensor: 75)
    assert sample("diptych_device_temperature_celsius") == 75


def test_a_number_that_the_driver_does_not_give_costs_no_other(
    nvml: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_handle: object) -> float:
        raise NVMLError("Not Supported")

    monkeypatch.setattr(nvml, "nvmlDeviceGetPowerUsage", refused)
    read_device(CUDA)
    page = generate_latest(REGISTRY).decode()
    assert "diptych_device_power_watts NaN" in page
    assert "diptych_device_temperature_celsius 61.0" in page


def test_without_a_driver_to_ask_memory_is_told_all_the_same(
    nvml: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused() -> None:
        raise NVMLError("Driver Not Loaded")

    monkeypatch.setattr(nvml, "nvmlInit", refused)
    with caplog.at_level(logging.WARNING):
        assert read_device(CUDA) == [metrics.DEVICE_MEMORY]
    assert "are not among the metrics (Driver Not Loaded)" in caplog.text


def test_on_a_cpu_there_is_no_device_to_tell_of() -> None:
    assert read_device(torch.device("cpu")) == []
