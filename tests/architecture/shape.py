"""Rules on shape: lengths, complexity, parameters, names, and interfaces with enough implementations."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.architecture.source import Source

Function = ast.FunctionDef | ast.AsyncFunctionDef
MODULE_NAME_BANNED = re.compile(r"^_?(utils?|helpers?|common|misc|tools?|shared|stuff)$")
CLASS_NAME_BANNED = re.compile(r"(Managers?|Helpers?|Utils?)$")
CLASS_WORDS_BANNED = frozenset(
    {
        "Answered",
        "Around",
        "Asked",
        "Brought",
        "Crowded",
        "Drawn",
        "Ended",
        "Exchanged",
        "Fielded",
        "Filled",
        "Found",
        "Gathered",
        "Given",
        "Got",
        "Heard",
        "Held",
        "Installed",
        "Judged",
        "Kept",
        "Known",
        "Labelled",
        "Lost",
        "Made",
        "Measured",
        "Met",
        "Named",
        "Noted",
        "Paid",
        "Played",
        "Prepared",
        "Published",
        "Read",
        "Refused",
        "Renewed",
        "Resampled",
        "Said",
        "Seen",
        "Served",
        "Shown",
        "Spent",
        "Spoilt",
        "Started",
        "Stored",
        "Swept",
        "Switched",
        "Taken",
        "Thought",
        "Told",
        "Unseen",
        "Walked",
        "Wanted",
        "Watched",
        "Written",
    }
)
"""Participles that say nothing of what a class holds when they stand alone."""
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension)


@dataclass(frozen=True)
class MeasuredFunction:
    """One function and its figures."""

    source: Source
    node: Function
    lines: int
    """From `def` to its last line, docstring included."""
    complexity: int
    """Cyclomatic: 1 and one for each branch, boolean operator, case and condition of a comprehension."""
    parameters: int
    """Without self and cls."""

    def violation(self, figure: str, limit: int) -> str:
        """Format a violation for a figure that is over its limit."""
        return self.source.at(self.node, f"{self.node.name}: {figure} {getattr(self, figure)}, the limit is {limit}")


def functions(sources: Sequence[Source]) -> list[MeasuredFunction]:
    """Measure every function and method, nested ones too."""
    found = []
    for source in sources:
        for node in source.nodes:
            if isinstance(node, Function):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                found.append(MeasuredFunction(source, node, lines, complexity(node), parameters(node)))
    return found


def complexity(function: Function) -> int:
    """Return the cyclomatic complexity; nested functions are counted separately."""
    return 1 + sum(map(_branches, _own_nodes(function)))


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    waiting = [node]
    while waiting:
        own = [child for child in ast.iter_child_nodes(waiting.pop()) if not isinstance(child, Function | ast.ClassDef)]
        yield from own
        waiting += own


def _branches(node: ast.AST) -> int:
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.match_case):
        return not (isinstance(node.pattern, ast.MatchAs) and node.pattern.pattern is None)
    return isinstance(node, BRANCHES)


def parameters(function: Function) -> int:
    """Return the number of parameters, without a leading self or cls."""
    args = function.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, [args.vararg, args.kwarg])]
    return len(every) - (bool(every) and every[0].arg in ("self", "cls"))


def oversized(measured: Sequence[MeasuredFunction], limits: Mapping[str, int]) -> list[str]:
    """Find functions over one of the limits; its keys are figures of MeasuredFunction."""
    return [
        item.violation(figure, limit)
        for item in measured
        for figure, limit in limits.items()
        if getattr(item, figure) > limit
    ]


def long_files(sources: Sequence[Source], limit: int) -> list[str]:
    """Find files over the limit."""
    return [
        source.at(source.tree, f"{source.lines} lines, the limit is {limit}")
        for source in sources
        if source.lines > limit
    ]


def banned_names(sources: Sequence[Source]) -> list[str]:
    """Find modules and classes whose name does not describe their content."""
    found = []
    for source in sources:
        if any(MODULE_NAME_BANNED.search(part) for part in source.module.split(".")):
            found.append(source.at(source.tree, f"module name {source.module}"))
        for node in source.nodes:
            if isinstance(node, ast.ClassDef) and CLASS_NAME_BANNED.search(node.name):
                found.append(source.at(node, f"class name {node.name}"))
    return found


def bare_participles(sources: Sequence[Source]) -> list[str]:
    """Find classes whose whole name is a participle, private ones too."""
    return [
        source.at(node, f"class name {node.name}")
        for source, node in _classes(sources)
        if node.name.lstrip("_") in CLASS_WORDS_BANNED
    ]


def repeated_classes(sources: Sequence[Source]) -> list[str]:
    """Find class names that exist more than once in all sources together."""
    by_name: dict[str, list[str]] = {}
    for source, node in _classes(sources):
        by_name.setdefault(node.name, []).append(source.at(node, f"class name {node.name}"))
    return [place for places in by_name.values() if len(places) > 1 for place in places]


def _classes(sources: Sequence[Source]) -> Iterator[tuple[Source, ast.ClassDef]]:
    for source in sources:
        for node in source.nodes:
            if isinstance(node, ast.ClassDef):
                yield source, node


def lonely_interfaces(sources: Sequence[Source]) -> list[str]:
    """Find protocols and abstract classes with fewer than two classes that have all their methods."""
    classes = list(_classes(sources))
    by_name = {node.name: node for _, node in classes}
    concrete = [node for _, node in classes if not _is_interface(node)]
    found = []
    for source, node in classes:
        if _is_interface(node):
            wanted = _methods(node, by_name)
            fitting = [other.name for other in concrete if wanted <= _methods(other, by_name)]
            if len(fitting) < 2:
                found.append(source.at(node, f"interface {node.name} has {len(fitting)} implementation(s) {fitting}"))
    return found


def _is_interface(node: ast.ClassDef) -> bool:
    bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
    metaclasses = {ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "metaclass"}
    return bool(bases & {"Protocol", "typing.Protocol", "ABC", "abc.ABC"} or metaclasses & {"ABCMeta", "abc.ABCMeta"})


def _methods(node: ast.ClassDef, by_name: Mapping[str, ast.ClassDef]) -> set[str]:
    own = {item.name for item in node.body if isinstance(item, Function)}
    for base in node.bases:
        parent = by_name.get(ast.unparse(base).rpartition(".")[2])
        if parent is not None and parent is not node:
            own |= _methods(parent, by_name)
    return own
