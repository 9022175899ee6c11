"""Rules on imports: which room may know which, who may know a foreign library, no cycles, nothing imported late."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from tests.architecture.source import Source, below

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
OURS = ("edge_agent", "convert", "benchmarks", "installer", "tests")
IMPURE = {"asyncio", "datetime", "io", "os", "random", "secrets", "select", "socket", "subprocess", "threading", "time"}


@dataclass(frozen=True)
class Import:
    """One imported module."""

    node: ast.AST
    module: str
    late: bool
    """Inside a function."""


def imports(source: Source, known: frozenset[str]) -> Iterator[Import]:
    """Yield what a file imports; `from a import b` is a.b where that is one of the known modules, and a otherwise."""

    def visit(node: ast.AST, late: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(node, alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
            yield from (Import(node, name if name in known else base, late) for name in names)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, late or isinstance(node, FUNCTION))

    yield from visit(source.tree, False)


def modules(sources: Sequence[Source]) -> frozenset[str]:
    """Return the dotted names of all files."""
    return frozenset(source.module for source in sources)


def room_of(module: str, rooms: Mapping[str, object]) -> str | None:
    """Return the most exact room that a module is in."""
    fitting = [room for room in rooms if below(module, [room])]
    return max(fitting, key=len, default=None)


def homeless(sources: Sequence[Source], rooms: Mapping[str, object]) -> list[str]:
    """Find files that are in no room of the table."""
    return [source.at(source.tree, "is in no room") for source in sources if room_of(source.module, rooms) is None]


def forbidden_edges(sources: Sequence[Source], rooms: Mapping[str, set[str]]) -> list[str]:
    """Find imports from one room into another that the table does not allow."""
    known, found = modules(sources), []
    for source in sources:
        room = room_of(source.module, rooms)
        for item in imports(source, known):
            target = room_of(item.module, rooms)
            if room and target and target != room and target not in rooms[room]:
                found.append(source.at(item.node, f"{room} must not import {item.module} ({target})"))
    return found


def foreign_edges(sources: Sequence[Source], importers: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Find imports of a library outside the rooms that may know it, and of libraries that are not in the table."""
    known, found = modules(sources), []
    for source in sources:
        for item in imports(source, known):
            library = max((name for name in importers if below(item.module, [name])), key=len, default=None)
            if library and not below(source.module, importers[library]):
                found.append(source.at(item.node, f"only {', '.join(importers[library])} may import {library}"))
            top = item.module.partition(".")[0]
            if not library and top not in OURS and top not in sys.stdlib_module_names:
                found.append(source.at(item.node, f"{item.module} is a library that no room may import yet"))
    return found


def late_imports(sources: Sequence[Source], allowed: Mapping[str, str]) -> list[str]:
    """Find imports inside functions, except in modules that have a reason."""
    known = modules(sources)
    return [
        source.at(item.node, f"imports {item.module} inside a function")
        for source in sources
        if source.module not in allowed
        for item in imports(source, known)
        if item.late
    ]


def cycles(sources: Sequence[Source]) -> list[str]:
    """Find one cycle among modules that import each other."""
    known = modules(sources)
    graph = {source.module: {item.module for item in imports(source, known)} & known for source in sources}
    for module, targets in graph.items():
        targets.discard(module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


def impure(sources: Sequence[Source], pure: Sequence[str]) -> list[str]:
    """Find clocks, waiting and files in modules that only decide."""
    known, found = modules(sources), []
    for source in sources:
        if source.module not in pure:
            continue
        for item in imports(source, known):
            if item.module.partition(".")[0] in IMPURE:
                found.append(source.at(item.node, f"a module that only decides must not import {item.module}"))
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Await) or (isinstance(node, ast.Name) and node.id == "open"):
                found.append(source.at(node, "a module that only decides must not wait or open files"))
    return found


def unused(sources: Sequence[Source], entries: Mapping[str, str]) -> list[str]:
    """Find modules that no other imports and that are no entry point."""
    known = modules(sources)
    used = {item.module for source in sources for item in imports(source, known) if item.module != source.module}
    packages = {name.rpartition(".")[0] for name in known}
    return [
        source.at(source.tree, f"nothing imports {source.module}")
        for source in sources
        if source.module not in used | packages | set(entries)
    ]
