"""Names of code that docs/guides/paper.md gives are there."""

import ast
import re
from pathlib import Path

import pytest
from markdown_pages import ROOT

PAGE = ROOT / "docs" / "guides" / "paper.md"
PLACES = sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE.read_text())))
FILES = sorted(set(re.findall(r"`([\w/]+\.(?:py|yaml))(?::[\w.]+)?`", PAGE.read_text())))


def names_of(path: Path) -> set[str]:
    """Functions, classes and methods of a file, these as Class.method."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(("file", "name"), PLACES)
def test_a_name_stands_in_its_file(file: str, name: str) -> None:
    assert name in names_of(ROOT / file)


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_there(file: str) -> None:
    assert (ROOT / file).is_file()


def test_every_section_table_and_appendix_of_the_paper_has_a_line() -> None:
    first_cells = " ".join(line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| "))
    wanted = ["equation 1", "algorithm 1", "2.1", "2.2", "2.3", "3.1", "3.2", "4.1", "4.2", "5.1", "5.2", "appendix A"]
    wanted += [f"table {number}" for number in (1, 3, 5, 6, 7, 8)] + ["tables 2 and 4", "table B.1"]
    wanted += [f"figure {number}" for number in range(4, 10)] + [f"B.{number}" for number in range(1, 11)]
    assert not [part for part in wanted if not re.search(rf"{re.escape(part)}(?!\d)", first_cells)]


def test_a_name_that_is_not_there_would_be_found() -> None:
    assert "nt_xent" in names_of(ROOT / "model/loss.py")
    assert "SimCLR.forward" in names_of(ROOT / "model/simclr.py")
    assert "nt_went" not in names_of(ROOT / "model/loss.py")
