"""Rules on habits: no broad excepts, tests that neither sleep nor patch, documents that name every part."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from tests.architecture.source import Source, below

BROAD = {"Exception", "BaseException"}


def broad_excepts(sources: Sequence[Source], allowed: Mapping[str, str]) -> list[str]:
    """Find `except` clauses that catch every exception and do not raise it again, except in modules that have a
    reason."""
    return [
        source.at(node, "catches every exception")
        for source in sources
        if source.module not in allowed
        for node in source.nodes
        if isinstance(node, ast.ExceptHandler) and _is_broad(node)
    ]


def _is_broad(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return False  # cleans up and passes it on
    return handler.type is None or any(
        isinstance(node, ast.Name) and node.id in BROAD for node in ast.walk(handler.type)
    )


_BEGINNINGS = {
    *("create_task", "ensure_future", "run_coroutine_threadsafe", "run_in_executor"),
    *("Thread", "Timer", "ThreadPoolExecutor", "start_new_thread"),
}


def unowned(sources: Sequence[Source], allowed: Mapping[str, str]) -> list[str]:
    """Find code that starts tasks and threads, except in modules that name their owner; a TaskGroup owns its tasks."""
    return [
        source.at(node, f"{ast.unparse(node.func)} begins what nobody owns")
        for source in sources
        if not below(source.module, allowed)
        for groups in [_groups(source.tree)]
        for node in source.nodes
        if isinstance(node, ast.Call) and _begins(node, groups)
    ]


def _begins(call: ast.Call, groups: set[str]) -> bool:
    owner, _, name = ast.unparse(call.func).rpartition(".")
    return name in _BEGINNINGS and owner not in groups


def _groups(tree: ast.Module) -> set[str]:
    items = [item for node in ast.walk(tree) if isinstance(node, ast.AsyncWith) for item in node.items]
    made = [item for item in items if ast.unparse(item.context_expr).endswith("TaskGroup()")]
    return {ast.unparse(item.optional_vars) for item in made if item.optional_vars}


def borrowed_modules(sources: Sequence[Source]) -> list[str]:
    """Find commands that start Python with -m but without -P (or -I) before it: the working directory would come
    first."""
    found = []
    for source in sources:
        for node in source.nodes:
            words = [ast.unparse(each).strip("'") for each in node.elts] if isinstance(node, ast.List) else []
            if "sys.executable" in words and "-m" in words and not {"-P", "-I"} & set(words[: words.index("-m")]):
                found.append(source.at(node, "starts Python with -m, which imports from the working directory"))
    return found


def sleeping(tests: Sequence[Source], allowed: Mapping[str, str]) -> list[str]:
    """Find calls of any `sleep` in tests, except in modules that have a reason."""
    return [
        source.at(node, "sleeps")
        for source in tests
        if source.module not in allowed
        for node in source.nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "sleep"
    ]


def patching(tests: Sequence[Source]) -> list[str]:
    """Find tests that replace parts of the code that they test."""
    found = []
    for source in tests:
        for node in source.nodes:
            names = _imported(node)
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("monkeypatch.setattr", "monkeypatch.setitem"):
                names = {ast.unparse(node)}
            if isinstance(node, ast.arg) and node.arg == "mocker":
                names = {"mocker"}
            found += [source.at(node, f"patches with {name}") for name in sorted(names)]
    return found


def _imported(node: ast.AST) -> set[str]:
    names = set()
    if isinstance(node, ast.Import):
        names = {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        names = {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if re.match(r"(unittest\.)?mock\b|unittest\.mock\b", name)}


def without_fact(tests: Sequence[Source]) -> list[str]:
    """Find tests whose docstring does not state the behaviour."""
    return [
        source.at(node, f"{node.name} has no docstring")
        for source in tests
        for node in source.nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]


def unknown_arguments(sources: Sequence[Source]) -> list[str]:
    """Find names in the `Args:` of a docstring that are not parameters of the function."""
    return [
        source.at(node, f"{node.name} has no parameter {name}")
        for source in sources
        for node in source.nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for name in _described_arguments(ast.get_docstring(node) or "")
        if name not in {each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)}
    ]


def _described_arguments(docstring: str) -> list[str]:
    section = re.search(r"^Args:\n((?: .*\n?|\n)*)", docstring, re.MULTILINE)
    named = re.findall(r"^ {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*): ", section[1], re.MULTILINE) if section else []
    return [name.lstrip("*") for names in named for name in names.split(", ")]


def dependency_names(requirements: Iterable[str]) -> list[str]:
    """Return the names in PEP 508 requirements."""
    return [re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0] for requirement in requirements]


def unnamed(names: Collection[str], document: str) -> list[str]:
    """Find names that a document does not contain as a word in backquotes or in a drawn tree."""
    return [name for name in sorted(names) if not re.search(rf"(?<![\w/.-]){re.escape(name)}(?![\w.-])", document)]


def unlisted_modules(sources: Sequence[Source]) -> list[str]:
    """Find modules that the list of files in their package's docstring lacks, and listed files that do not exist."""
    found = []
    for source in sources:
        docstring = ast.get_docstring(source.tree) or ""
        if not source.path.endswith("/__init__.py") or not re.search(r"^\w+\.py  ", docstring, re.MULTILINE):
            continue
        folder = source.path.removesuffix("__init__.py")
        inside = {each.path.removeprefix(folder) for each in sources if each.path.startswith(folder)}
        files = {name for name in inside if "/" not in name} - {"__init__.py"}
        listed = set(re.findall(r"(?<![\w/])\w+\.py\b", docstring))
        found += [source.at(source.tree, f"does not list {name}") for name in sorted(files - listed)]
        found += [source.at(source.tree, f"lists {name}, which does not exist") for name in sorted(listed - files)]
    return found
