"""pyproject.toml alone decides which version this is; every file that must repeat it says the same."""

import datetime as dt
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
RELEASES = re.findall(r"^## \[(.+)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
"""Of the changelog, newest first: version, and date or Unreleased."""


def test_images_bear_the_version() -> None:
    stated = {
        ROOT / "Dockerfile": r"^ARG VERSION=(\S+)$",
        ROOT / "ops" / "compose.yaml": r"image: diptych:(\S+)",
        **{path: r"newTag: (\S+)" for path in (ROOT / "ops" / "k8s").glob("*/*.yaml") if "images:" in path.read_text()},
    }
    assert len(stated) > 2
    for path, pattern in stated.items():
        assert set(re.findall(pattern, path.read_text(), flags=re.MULTILINE)) == {VERSION}, path


def test_citation_and_changelog_agree_on_the_newest_version_and_its_date() -> None:
    version, date = RELEASES[0]
    assert CITATION["version"] == version == VERSION
    if date == "Unreleased":
        assert "date-released" not in CITATION
    else:
        assert CITATION["date-released"] == dt.date.fromisoformat(date)


def test_only_the_newest_version_may_be_unreleased() -> None:
    dates = [dt.date.fromisoformat(date) for _, date in RELEASES[1:]]
    assert dates == sorted(dates, reverse=True)


def test_the_changelog_uses_the_headings_of_keep_a_changelog_alone() -> None:
    headings = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert set(headings) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_file_is_valid() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    if not checker.exists():
        pytest.skip("check-jsonschema is not installed (PyPI package check-jsonschema)")
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.citation-file-format", ROOT / "CITATION.cff"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", ["CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_to_files_lead_to_files(page: str) -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / target).exists(), target
