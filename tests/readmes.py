"""The READMEs, of the root and of the packages: their text, code and words in back-quotes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
READMES = sorted([ROOT / "README.md", *(ROOT / "rubric_rl").rglob("README.md")])

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")


class Command(NamedTuple):
    """One command of a bash block."""

    file: str
    line: str
    """On one line, without its comment."""

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    """What stands in the code blocks of a language."""
    return [body for found, body in _BLOCK.findall(text_of(path)) if found == language]


def inline(path: Path) -> list[str]:
    """What stands in back-quotes, code blocks left out."""
    return _INLINE.findall(_BLOCK.sub("", text_of(path)))


def commands() -> list[Command]:
    """Every command of every bash block."""
    lines = [
        (path, line)
        for path in READMES
        for block in blocks(path, "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    found = [Command(name_of(path), shlex.join(_words(line))) for path, line in lines]
    return [command for command in found if command.line]


def _words(line: str) -> list[str]:
    return shlex.split(line, comments=True)
