"""Every link of the docs leads somewhere."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from markdown_pages import PAGES, ROOT, anchors, fenced_blocks, links


def fault_of(page: Path, target: str) -> str | None:
    """What is wrong with a link of this page, or None. Other hosts are not asked: only the form is looked at."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        well_formed = parts.scheme in ("https", "http", "mailto") and (parts.scheme == "mailto" or "." in parts.netloc)
        return None if well_formed else "not an address"
    path = (page.parent / parts.path).resolve() if parts.path else page
    if not path.exists():
        return "no such file"
    if not path.is_relative_to(ROOT):
        return "outside of the project"
    if parts.fragment and parts.fragment not in anchors(path):
        return f"no heading #{parts.fragment}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    faults = {target: fault for target in links(page) if (fault := fault_of(page, target))}
    assert not faults


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("data.md", None),
        ("data.md#building", None),
        ("pictures/views.png", None),
        ("https://arxiv.org/abs/2002.05709", None),
        ("nothing.md", "no such file"),
        ("data.md#nothing", "no heading #nothing"),
        ("../../elsewhere.md", "no such file"),
        ("https://nowhere", "not an address"),
        ("htps://arxiv.org", "not an address"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(target: str, fault: str | None) -> None:
    assert fault_of(ROOT / "docs" / "design.md", target) == fault


def test_links_and_anchors_are_read_from_the_pages(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A title, with `code_name` and [a link](x.md)\n## Twice\n## Twice\n"
        "[one](a.md#b), [![two](c.png)](d.md), `[no](e.md)`\n```\n[no](f.md)\n# no\n```\n"
    )
    assert links(page) == ["x.md", "a.md#b", "c.png", "d.md"]
    assert anchors(page) == {"a-title-with-code_name-and-a-link", "twice", "twice-1"}


def test_every_page_of_docs_can_be_reached_from_the_menu_of_the_site() -> None:
    menu = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(menu) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES if page.parent != ROOT)


def test_fenced_blocks_have_the_marks_just_above_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n<!-- needs: gpu -->\n<!-- takes: minutes -->\n\n```bash\none\n```\n"
        "<!-- needs: network -->\ntext between\n\n- item\n  ```bash\n  two\n  ```\n"
    )
    first, second = fenced_blocks(page, tmp_path)
    assert (first.marks, first.text, first.line) == (("needs: gpu", "takes: minutes"), "one\n", 5)
    assert (second.marks, second.text) == ((), "two\n")
