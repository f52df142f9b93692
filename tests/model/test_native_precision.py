"""What `precision = auto` comes to, by what Linux says of the machine."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from model.native_precision import _cpu_features, native_precision
from ops.doctor.config import DoctorConfig
from ops.doctor.preflight_machine import check_device
from train.arguments import parse
from train.config import PretrainConfig
from train.distributed import make_accelerator

ZEN_3 = "processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t\t: fpu avx2 fma\n"
ZEN_4 = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n"
SAPPHIRE_RAPIDS = "processor\t: 0\nflags\t\t: fpu avx512f amx_bf16 amx_tile\n"
GRACE = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n"
Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Pretend to be another one."""

    def pretend(cpu_info: str, *, driver: bool = False) -> None:
        (tmp_path / "cpuinfo").write_text(cpu_info)
        (tmp_path / "nvidiactl").touch() if driver else (tmp_path / "nvidiactl").unlink(missing_ok=True)
        monkeypatch.setattr("model.native_precision._CPU_INFO", tmp_path / "cpuinfo")
        monkeypatch.setattr("model.native_precision._GPU_DEVICES", (tmp_path / "nvidiactl",))
        _cpu_features.cache_clear()

    yield pretend
    _cpu_features.cache_clear()


@pytest.mark.parametrize(
    ("cpu_info", "expected"),
    [(ZEN_3, "fp32"), (ZEN_4, "bf16"), (SAPPHIRE_RAPIDS, "bf16"), (GRACE, "bf16"), ("", "fp32")],
)
def test_a_cpu_computes_in_bf16_if_it_has_instructions_for_it(machine: Machine, cpu_info: str, expected: str) -> None:
    machine(cpu_info)
    assert native_precision("cpu") == native_precision("auto") == expected


def test_a_gpu_computes_in_bf16_whatever_the_cpu_is(machine: Machine) -> None:
    machine(ZEN_3, driver=True)
    assert native_precision("auto") == native_precision("cuda") == "bf16"
    assert native_precision("cpu") == "fp32"


def test_a_run_keeps_what_auto_came_to(machine: Machine, tmp_path: Path) -> None:
    machine(ZEN_3)
    here = PretrainConfig(device="cpu")
    assert here.precision == "fp32"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"precision": here.precision}))
    machine(ZEN_4)
    assert PretrainConfig(device="cpu").precision == "bf16"
    assert parse(PretrainConfig, [f"--config={tmp_path / 'config.yaml'}"]).precision == "fp32"
    assert parse(PretrainConfig, ["--precision=fp32"]).precision == "fp32"


def test_bf16_on_a_cpu_that_emulates_it_is_warned_of(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    asked = PretrainConfig(device="cpu", precision="bf16")
    machine(ZEN_4)
    with caplog.at_level(logging.WARNING):
        make_accelerator(asked)
        assert not caplog.text
        machine(ZEN_3)
        make_accelerator(asked)
    assert "this CPU has no instructions for it; fp32 may be several times as fast" in caplog.text


def test_the_preflight_doubts_bf16_where_it_is_emulated(machine: Machine) -> None:
    asked = DoctorConfig(device="cpu", precision="bf16")
    levels = []
    for cpu_info in (ZEN_4, ZEN_3):
        machine(cpu_info)
        levels += [finding.level for finding in check_device(asked)]
    assert levels == ["OK", "WARN"]
