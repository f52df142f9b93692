"""The wheel holds the program and what it reads, the sdist the checkout; both are built here only by `make slow`."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = [package for package in SETUPTOOLS["packages"] if "." not in package]


def packaged(package: str, pattern: str) -> set[Path]:
    return {path for path in (ROOT / package.replace(".", "/")).glob(pattern) if path.is_file()}


def test_every_file_beside_the_code_is_package_data() -> None:
    patterns = [(package, pattern) for package, each in SETUPTOOLS["package-data"].items() for pattern in each]
    assert not [each for each in patterns if not packaged(*each)]
    beside = {path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()}
    listed = set().union(*(packaged(*each) for each in patterns))
    assert listed == {path for path in beside if path.suffix not in {".py", ".pyc"}}


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The files that a fresh checkout has."""
    told = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    return [name for name in told.split("\0") if name and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def built(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel that was built from it."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in tracked:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    done = subprocess.run(
        ["make", "-C", str(checkout), "--assume-old=setup", f"BIN={Path(sys.executable).parent}", "wheel"],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},  # it is told of
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [line for line in (done.stdout + done.stderr).splitlines() if "warning" in line.lower()]
    return checkout / "dist"


@pytest.mark.slow
def test_the_sdist_is_the_checkout(built: Path, tracked: list[str]) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {name for name in names if name in {"PKG-INFO", "setup.cfg"} or name.startswith("diptych.egg-info/")}
    assert names - made == set(tracked)


@pytest.mark.slow
def test_the_wheel_holds_the_five_folders_and_nothing_else(built: Path, tracked: list[str]) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {name for name in tracked if name.partition("/")[0] in FOLDERS}


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the wheel, and with the dependencies of the one that runs this test."""
    environment = tmp_path_factory.mktemp("installed")
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    # Only after pip, to which what is there would be an older version to remove.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.slow
@pytest.mark.parametrize("module", ["pipelines.build_shards", "train.pretrain", "eval.evaluate", "ops.doctor"])
def test_an_installed_wheel_runs_from_any_directory(module: str, installed: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where = f"import importlib.util; print(importlib.util.find_spec({module.partition('.')[0]!r}).origin)"
    for arguments in (["-c", where], ["-m", module, "--help"]):
        done = subprocess.run(
            [str(installed), *arguments], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(("usage: ", str(installed.parents[1])))
