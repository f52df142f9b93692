"""The project's Markdown: its pages, their headings, links and fenced blocks."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: str
    """Relative to the project."""
    line: int
    """Of its opening fence, from 1."""
    language: str
    marks: tuple[str, ...]
    """Of the HTML comments just above it, such as "needs: gpu"."""
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def fenced_blocks(page: Path, root: Path = ROOT) -> list[Block]:
    """In the order of the page; those of lists are indented, which is taken off."""
    found: list[Block] = []
    marks: list[str] = []
    opened: tuple[int, str, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = re.match(r"^(\s*)```(\S*)\s*$", line)
        if opened is not None and fence and not fence[2]:
            start, indent, language = opened
            text = "".join(f"{part.removeprefix(indent)}\n" for part in inside)
            name = str(page.relative_to(root))
            found.append(Block(page=name, line=start, language=language, marks=tuple(marks), text=text))
            opened, marks, inside = None, [], []
        elif opened is not None:
            inside.append(line)
        elif fence:
            opened = (number, fence[1], fence[2])
        elif mark := re.fullmatch(r"\s*<!--\s*(.*?)\s*-->\s*", line):
            marks.append(mark[1])
        elif line.strip():
            marks = []
    assert opened is None, f"{page}:{opened and opened[0]}: a fence that is never closed"
    return found


def prose(page: Path) -> str:
    """The page without fenced blocks, and without code in its lines."""
    text = re.sub(r"(?ms)^\s*```.*?^\s*```\s*$", "", page.read_text())
    return re.sub(r"`[^`\n]*`", "``", text)


def inline_code(page: Path) -> list[str]:
    """What stands between single backquotes, as one line each."""
    text = re.sub(r"(?ms)^\s*```.*?^\s*```\s*$", "", page.read_text())
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def links(page: Path) -> list[str]:
    """Targets of [text](target) and ![text](target), one within the other, too."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and the site make them."""
    found: set[str] = set()
    text = re.sub(r"(?ms)^\s*```.*?^\s*```\s*$", "", page.read_text())
    for title in re.findall(r"(?m)^#{1,6}\s+(.*?)\s*$", text):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number, name = 0, slug
        while name in found:
            number += 1
            name = f"{slug}-{number}"
        found.add(name)
    return found
