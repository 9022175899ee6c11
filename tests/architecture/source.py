"""The input of the architecture rules: parsed Python files. A rule is a pure function from these to violations."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True)
class Source:
    """One Python file."""

    module: str
    """Dotted name; a package is called after its folder."""
    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Return the syntax tree, parsed on demand: every run of the tests collects the rules, and few execute them."""
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Return every node of the syntax tree, walked once for all rules."""
        return list(ast.walk(self.tree))

    @cached_property
    def import_statements(self) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
        """Return each import in the order of the file, and whether it is inside a function."""
        return list(_import_statements(self.tree, False))

    @property
    def lines(self) -> int:
        """Return the number of lines, including blank lines and comments."""
        return len(self.text.splitlines())

    def at(self, node: ast.AST, what: str) -> str:
        """Format a violation with a location to which an editor can jump."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {what}"


def _import_statements(node: ast.AST, late: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, late
    elif not isinstance(node, ast.expr):  # no statement stands inside an expression
        for child in ast.iter_child_nodes(node):
            yield from _import_statements(child, late or isinstance(node, FUNCTION))


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
    """Return whether a module is one of those named, or inside one."""
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)
