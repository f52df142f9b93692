"""The commands of a block of shell, as far as documentation uses it: words, variables, comments, here-documents."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from markdown_pages import ROOT, Block

# What the shells of a reader have; a block's own assignments come on top.
SURROUNDINGS = {
    "HOME": "/home/reader",
    "PWD": str(ROOT),
    "SLURM_ARRAY_TASK_ID": "0",
    "SLURM_NNODES": "2",
    "SLURM_NODEID": "0",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}
ELLIPSIS = ("...", "$@")
"""Stand for flags that a reader is to fill in."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One simple command of a block."""

    block: Block
    words: tuple[str, ...]
    environment: Mapping[str, str]
    """Assignments before it."""

    def __str__(self) -> str:
        return f"{self.block}: {' '.join(self.words)}"


def commands_of(block: Block) -> Iterator[Command]:
    """Every simple command; assignments that stand alone, or are exported, serve those after them."""
    text = re.sub(r"<<'?(\w+)'?\n.*?\n\1\n", "\n", block.text.replace("\\\n", " "), flags=re.DOTALL)
    variables = dict(SURROUNDINGS)
    exported: dict[str, str] = {}
    for line in text.splitlines():
        for words in _simple_commands(_expanded(line, variables)):
            if words[0] == "export":
                assignments, rest = _assignments(words[1:])
                exported |= assignments
            else:
                assignments, rest = _assignments(words)
            if rest:
                yield Command(block=block, words=tuple(rest), environment=exported | assignments)
            else:
                variables |= assignments


def _expanded(line: str, variables: Mapping[str, str]) -> str:
    """`$NAME` and `${NAME}` by their values; `$@` and `$(...)` stay."""
    return re.sub(r"\$\{?([A-Za-z_]\w*)\}?", lambda match: variables[match[1]], line)


def _simple_commands(line: str) -> Iterator[list[str]]:
    """Divided at && and |; what follows a redirection is left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for word in [*lexer, ";"]:
        if word in ("&&", "|", ";", "||"):
            if words:
                yield words
            words, redirected = [], False
        elif word in (">", ">>", "<"):
            redirected = True
        elif redirected:
            redirected = False
        elif word not in ELLIPSIS:
            words.append(word)


def _assignments(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """NAME=value words at the beginning, and the rest."""
    found: dict[str, str] = {}
    for i, word in enumerate(words):
        match = re.fullmatch(r"([A-Za-z_]\w*)=(.*)", word, flags=re.DOTALL)
        if not match:
            return found, words[i:]
        found[match[1]] = match[2]
    return found, []
