"""The workflows of .github are valid, may do little, and ask for what is there. That they run only GitHub can show."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
FILES = sorted((GITHUB / "workflows").glob("*.yml"))
WORKFLOWS: dict[str, dict[str, Any]] = {path.name: yaml.safe_load(path.read_text()) for path in FILES}
JOBS = {f"{file}:{name}": job for file, workflow in WORKFLOWS.items() for name, job in workflow["jobs"].items()}
EACH_JOB = pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
SCRIPTS = sorted({step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step})


def output(*command: str | Path) -> tuple[int, str]:
    """Exit status and all that a checker, installed beside Python or by Debian, says; skips where it is not."""
    name = str(command[0])
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", FILES),
        ("custom.github-workflows-require-timeout", FILES),
        ("vendor.dependabot", [GITHUB / "dependabot.yml"]),
    ],
    ids=["workflows", "timeouts", "dependabot"],
)
def test_the_schema_accepts_them(schema: str, files: list[Path]) -> None:
    assert files
    status, said = output("check-jsonschema", "--builtin-schema", schema, *files)
    assert status == 0, said


def test_zizmor_finds_nothing() -> None:
    status, said = output("zizmor", "--offline", "--pedantic", "--strict-collection", "--no-progress", GITHUB)
    assert status == 0, said
    assert "completed" in said  # it looked at something


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing_in_scripts(script: str, tmp_path: Path) -> None:
    path = tmp_path / "script.sh"
    path.write_text(script)
    status, said = output("shellcheck", "--shell=bash", path)
    assert status == 0, said


@EACH_JOB
def test_a_job_may_read_the_code_and_nothing_else(job: dict[str, Any]) -> None:
    assert job["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_workflow_has_no_rights_of_its_own_and_knows_no_secret(path: Path) -> None:
    assert WORKFLOWS[path.name]["permissions"] == {}
    assert "secrets" not in path.read_text()
    assert "github.token" not in path.read_text()


def test_an_action_is_the_same_commit_everywhere_with_its_version_beside_it() -> None:
    used = [
        line.split("uses:")[1].strip() for path in FILES for line in path.read_text().splitlines() if "uses:" in line
    ]
    assert used
    for reference in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", reference), reference
    assert len(set(used)) == len({reference.partition("@")[0] for reference in used})


@EACH_JOB
def test_a_checkout_leaves_no_token_behind(job: dict[str, Any]) -> None:
    (checkout,) = (step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@"))
    assert checkout["with"]["persist-credentials"] is False  # zizmor lets an explicit true pass


@EACH_JOB
def test_nothing_from_a_fork_runs_on_a_machine_of_ones_own(job: dict[str, Any]) -> None:
    if job["runs-on"] != "ubuntu-24.04":
        assert "github.event.pull_request.head.repo.full_name == github.repository" in job["if"]


def test_tests_run_on_every_python_that_is_promised() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    promised = [match[1] for each in classifiers if (match := re.fullmatch(r".*Python :: (3\.\d+)", each))]
    assert JOBS["ci.yml:test"]["strategy"]["matrix"]["python"] == promised


def test_makefile_has_every_target_that_is_asked_for() -> None:
    asked = {target for script in SCRIPTS for target in re.findall(r"^make ([\w-]+)$", script, flags=re.MULTILINE)}
    if not (ROOT / "mkdocs.yml").exists():
        asked.remove("docs")
    assert asked > {"lint", "test"}
    assert asked <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
