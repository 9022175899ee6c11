"""What the house rules look at: parsed Python files. A rule is a function from these to violations, and pure."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One Python file."""

    module: str
    """Dotted name; a package is called after its folder."""
    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax, parsed when a rule asks for it: every run of the tests collects the rules, and few run them."""
        return ast.parse(self.text, self.path)

    @property
    def lines(self) -> int:
        """Length of the file, blank lines and comments included."""
        return len(self.text.splitlines())

    def at(self, node: ast.AST, what: str) -> str:
        """Write a violation that an editor can jump to."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {what}"


def parse(path: str, text: str) -> Source:
    """Read one file's text; `path` is relative to the repository."""
    parts = list(Path(path).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return Source(".".join(parts), path, text)


def load(root: Path, folders: Iterable[str], *, without: tuple[str, ...] = ()) -> list[Source]:
    """Read every Python file below the folders, except those whose path starts with one of `without`."""
    found = []
    for folder in folders:
        for file in sorted((root / folder).rglob("*.py")):
            path = file.relative_to(root).as_posix()
            if not path.startswith(without):
                found.append(parse(path, file.read_text(encoding="utf-8")))
    return found


def below(module: str, prefixes: Iterable[str]) -> bool:
    """Tell whether a module is one of those named, or inside one."""
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)
