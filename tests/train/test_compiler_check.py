from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config import ViewsConfig
from train.compiler_check import refuse_without_compiler
from train.config import PretrainConfig
from train.errors import RunError

PLAIN = PretrainConfig()
COMPILED = PretrainConfig(compile=True)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in which programs are found; empty."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("train.compiler_check.sysconfig.get_path", lambda *_, **__: str(tmp_path))
    (tmp_path / "Python.h").touch()
    return tmp_path


def install(directory: Path, name: str) -> None:
    (directory / name).write_text("#!/bin/sh\n")
    (directory / name).chmod(0o755)


@pytest.mark.parametrize(("on_cpu", "compiler"), [(True, "g++"), (False, "gcc"), (False, "clang")])
def test_compilation_is_refused_until_its_compiler_is_there(on_cpu: bool, compiler: str, tools: Path) -> None:
    refuse_without_compiler(PLAIN, on_cpu=on_cpu)
    with pytest.raises(RunError, match=compiler.replace("+", r"\+")):
        refuse_without_compiler(COMPILED, on_cpu=on_cpu)
    install(tools, compiler)
    refuse_without_compiler(COMPILED, on_cpu=on_cpu)


def test_the_compiler_of_the_other_device_does_not_do(tools: Path) -> None:
    install(tools, "gcc")
    with pytest.raises(RunError, match=r"C\+\+ compiler g\+\+ is missing"):
        refuse_without_compiler(COMPILED, on_cpu=True)


def test_the_field_that_asks_is_named(tools: Path) -> None:
    asked = replace(PLAIN, views=ViewsConfig(compile=True))
    with pytest.raises(RunError, match=r"^views\.compile = true: the C compiler gcc or clang is missing; install"):
        refuse_without_compiler(asked, on_cpu=False)


def test_a_compiler_that_is_chosen_by_name_is_the_one_looked_for(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tools, "g++")
    monkeypatch.setenv("CXX", "g++-99")
    with pytest.raises(RunError, match=r"g\+\+-99 is missing"):
        refuse_without_compiler(COMPILED, on_cpu=True)


def test_pythons_header_is_looked_for_too(tools: Path) -> None:
    install(tools, "g++")
    (tools / "Python.h").unlink()
    with pytest.raises(RunError, match=r"header Python\.h \(Debian package python3-dev\) is missing"):
        refuse_without_compiler(COMPILED, on_cpu=True)
