"""Rules on imports: which layer can import which, which layer can import a foreign library, no cycles, no late
imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from tests.architecture.source import Source, below

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
    """Yield the imports of a file; `from a import b` is a.b if that is one of the known modules, and a otherwise."""

    for node, late in source.import_statements:
        if isinstance(node, ast.Import):
            yield from (Import(node, alias.name, late) for alias in node.names)
        else:
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
            yield from (Import(node, name if name in known else base, late) for name in names)


def modules(sources: Sequence[Source]) -> frozenset[str]:
    """Return the dotted names of all files."""
    return frozenset(source.module for source in sources)


def layer_of(module: str, layers: Mapping[str, object]) -> str | None:
    """Return the innermost layer that contains a module."""
    fitting = [layer for layer in layers if below(module, [layer])]
    return max(fitting, key=len, default=None)


def without_layer(sources: Sequence[Source], layers: Mapping[str, object]) -> list[str]:
    """Find files that are in no layer of the table."""
    return [source.at(source.tree, "is in no layer") for source in sources if layer_of(source.module, layers) is None]


def forbidden_edges(sources: Sequence[Source], layers: Mapping[str, set[str]]) -> list[str]:
    """Find imports from one layer into another that the table does not allow."""
    known, found = modules(sources), []
    for source in sources:
        layer = layer_of(source.module, layers)
        for item in imports(source, known):
            target = layer_of(item.module, layers)
            if layer and target and target != layer and target not in layers[layer]:
                found.append(source.at(item.node, f"{layer} must not import {item.module} ({target})"))
    return found


def foreign_edges(sources: Sequence[Source], importers: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Find imports of a library outside of its layers, and of libraries that are not in the table."""
    known, found = modules(sources), []
    for source in sources:
        for item in imports(source, known):
            library = max((name for name in importers if below(item.module, [name])), key=len, default=None)
            if library and not below(source.module, importers[library]):
                found.append(source.at(item.node, f"only {', '.join(importers[library])} may import {library}"))
            top = item.module.partition(".")[0]
            if not library and top not in OURS and top not in sys.stdlib_module_names:
                found.append(source.at(item.node, f"{item.module} is a library that no layer may import yet"))
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
    """Find one cycle among modules that import each other.

    A module of another package is imported after the packages that it is in, so these count as imported, too.
    """
    known = modules(sources)
    graph = {}
    for source in sources:
        targets = {item.module for item in imports(source, known)} & known
        packages = {package for target in targets for package in _packages(target)} & known
        graph[source.module] = (targets | packages - set(_packages(source.module))) - {source.module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


def _packages(module: str) -> list[str]:
    """Return the packages that a module is in, the outermost first."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def impure(sources: Sequence[Source], pure: Sequence[str]) -> list[str]:
    """Find clocks, waiting and files in modules that must be pure."""
    known, found = modules(sources), []
    for source in sources:
        if source.module not in pure:
            continue
        for item in imports(source, known):
            if item.module.partition(".")[0] in IMPURE:
                found.append(source.at(item.node, f"a module that only decides must not import {item.module}"))
        for node in source.nodes:
            if isinstance(node, ast.Await) or (isinstance(node, ast.Name) and node.id == "open"):
                found.append(source.at(node, "a module that only decides must not wait or open files"))
    return found


def impure_definitions(sources: Sequence[Source], pure: Mapping[str, Sequence[str]]) -> list[str]:
    """Find clocks, waiting and files in definitions that only decide, in modules that also act.

    A definition reaches what it names, and what that names in turn, in its own module; annotations do not count.
    """
    found = []
    for source in sources:
        file = _Definitions(source)
        for name in pure.get(source.module, ()):
            if name not in file.definitions:
                found.append(source.at(source.tree, f"there is no {name}"))
                continue
            for reached in sorted(_reached(file, name, set())):
                top = file.imported.get(reached, (reached, ""))[0].partition(".")[0]
                if reached == "open" or top in IMPURE:
                    found.append(
                        source.at(file.definitions[name], f"{name} only decides, and must not reach {reached}")
                    )
            waits = [node for node in ast.walk(file.definitions[name]) if isinstance(node, ast.Await)]
            found += [source.at(node, f"{name} only decides, and must not wait") for node in waits]
    return found


def _reached(file: _Definitions, name: str, seen: set[str]) -> set[str]:
    """Add to `seen` what a definition names, and what the definitions of its file name that it names."""
    for each in _names(file.definitions.get(name, ast.Pass())):
        if each not in seen:
            seen.add(each)
            _reached(file, each, seen)
    return seen


def impure_rules(sources: Sequence[Source], returns: str, pure: Sequence[str]) -> list[str]:
    """Find functions with this return type that reach a clock, a file or a process, in files that also look.

    A function reaches what it names, and what that names in turn, across these files; annotations do not count. Of our
    other modules it may reach only those that are pure.
    """
    files = {source.module: _Definitions(source) for source in sources}
    found = []
    for file in files.values():
        for name, node in file.definitions.items():
            if isinstance(node, ast.FunctionDef) and node.returns and ast.unparse(node.returns) == returns:
                reached = _impure_name(file, name, files, pure, set())
                found += [file.source.at(node, f"{name} only decides, and must not reach {reached}")] if reached else []
    return found


class _Definitions:
    """The top level of a file: what it defines, and where the names that it imports are from."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.definitions: dict[str, ast.AST] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        for node in source.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                base = getattr(node, "module", None)
                pairs = [(base, each.name) if base else (each.name, "") for each in node.names]
                self.imported |= dict(zip((each.asname or each.name for each in node.names), pairs, strict=True))
            else:
                self.definitions |= dict.fromkeys(_defined(node), node)


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a statement at the top level defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    return [each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]


def _impure_name(
    file: _Definitions, name: str, files: Mapping[str, _Definitions], pure: Sequence[str], seen: set[tuple[str, str]]
) -> str:
    """Return the first impure name that a definition reaches; empty when it reaches none."""
    if (file.source.module, name) in seen:
        return ""
    seen.add((file.source.module, name))
    if name in file.definitions:
        inner = (_impure_name(file, each, files, pure, seen) for each in _names(file.definitions[name]))
        return next(filter(None, inner), "")
    module, original = file.imported.get(name, ("", ""))
    if module in files:
        return _impure_name(files[module], original, files, pure, seen)
    foreign = below(module, OURS) and not below(module, pure)
    impure = module.partition(".")[0] in IMPURE | {"importlib", "pathlib", "tempfile"}
    return name if foreign or impure or name == "open" else ""


def _names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a definition reads, outside of annotations."""
    for field, value in ast.iter_fields(node):
        for each in value if isinstance(value, list) else [value]:
            if field in ("annotation", "returns") or not isinstance(each, ast.AST):
                continue
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load):
                yield each.id
            yield from _names(each)


def broken_uses(sources: Sequence[Source], others: Sequence[Source]) -> list[str]:
    """Find imports of names that a file lacks, and keyword arguments that a called function does not take.

    The imported files are among `others`. Functions count, called by their name or as `module.function`.
    """
    files = {source.module: _Definitions(source) for source in (*others, *sources)}
    found = []
    for source in sources:
        for node, _ in source.import_statements:
            found += [source.at(node, f"there is no {name}") for name in _missing_names(node, files)]
        for node in source.nodes:
            if isinstance(node, ast.Call):
                found += [source.at(node, text) for text in _unknown_keywords(files[source.module], node, files)]
    return found


def _missing_names(node: ast.Import | ast.ImportFrom, files: Mapping[str, _Definitions]) -> list[str]:
    """Return the names that a statement imports from one of the files and that this file lacks."""
    file = files.get(node.module or "") if isinstance(node, ast.ImportFrom) else None
    if file is None or "__getattr__" in file.definitions:
        return []
    known = {*file.definitions, *file.imported}
    names = [each.name for each in node.names if f"{file.source.module}.{each.name}" not in files]
    return [name for name in names if name not in known]


def _unknown_keywords(file: _Definitions, call: ast.Call, files: Mapping[str, _Definitions]) -> list[str]:
    """Return a sentence for each keyword argument that the called function does not take."""
    keywords = [each.arg for each in call.keywords if each.arg]
    function = _definition(file, ast.unparse(call.func), files) if keywords else None
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or function.args.kwarg:
        return []
    parameters = {each.arg for each in (*function.args.args, *function.args.kwonlyargs)}
    return [f"{function.name} has no parameter {name}" for name in keywords if name not in parameters]


def _definition(file: _Definitions, name: str, files: Mapping[str, _Definitions]) -> ast.AST | None:
    """Return what `name` or `module.name` stands for at the top level of a file; None if that is not in the files."""
    first, _, attribute = name.partition(".")
    if first in file.imported:
        module, original = file.imported[first]
        inner = f"{module}.{original}" if original else module
        if attribute:
            return _definition(files[inner], attribute, files) if inner in files else None
        return _definition(files[module], original, files) if module in files else None
    return None if attribute else file.definitions.get(name)


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
