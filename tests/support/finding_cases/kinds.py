"""Every finding that a rule of doctor can return, read from doctor's modules."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[3]
VERDICTS = ("note", "warning", "fault")


@dataclass(frozen=True)
class FindingKind:
    """A finding that one line of doctor's code can return."""

    check: str
    verdict: str
    seen: str
    """The words of its sentence that are fixed."""
    fragments: tuple[str, ...] = ()
    """The fixed parts of its sentence, in order; none where another function composes it."""
    number: int = 1
    """Tells apart lines with the same check, verdict and words."""

    @property
    def name(self) -> str:
        """Return its name in the table."""
        return f"{self.check}/{self.verdict}/{self.seen}{f'-{self.number}' if self.number > 1 else ''}"

    def matches(self, finding: Mapping[str, str]) -> bool:
        """Return whether doctor's finding can come from this line."""
        sentence = re.compile(".*".join(map(re.escape, self.fragments)), re.DOTALL)
        is_same = (finding["check"], finding["verdict"]) == (self.check, self.verdict)
        return is_same and sentence.search(finding["seen"]) is not None


def finding_kinds() -> list[FindingKind]:
    """Read doctor's modules; return the kinds in their order, those that are ok or unseen left out."""
    kinds, seen = [], Counter[str]()
    for path in sorted((ROOT / "edge_agent/doctor").glob("*_checks.py")):
        for kind in _kinds_of(path):
            seen[kind.name] += 1
            kinds.append(replace(kind, number=seen[kind.name]))
    return kinds


def _kinds_of(path: Path) -> Iterator[FindingKind]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checks = dict(_named_checks(tree))
    used = _checks_of_tables(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(node.value, ast.Tuple):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            check = checks.get(used.get(ast.unparse(target), ""), "")
            for rule in node.value.elts if check else ():
                yield from _rule_kind(check, rule)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERDICTS:
            if name := checks.get(ast.unparse(node.func.value)):
                yield _kind(name, node.func.attr, node.args[0])


def _rule_kind(check: str, rule: ast.expr) -> Iterator[FindingKind]:
    if isinstance(rule, ast.Call) and isinstance(rule.args[0], ast.Constant) and rule.args[0].value in VERDICTS:
        yield _kind(check, str(rule.args[0].value), rule.args[2])


def _kind(check: str, verdict: str, seen: ast.expr) -> FindingKind:
    fragments = [part for text in _texts(seen) for part in re.split(r"\{[^}]*\}", text) if part]
    return FindingKind(check, verdict, _slug(seen), tuple(fragments))


def _texts(seen: ast.expr) -> Iterator[str]:
    if isinstance(seen, ast.Constant):
        yield str(seen.value)
    elif isinstance(seen, ast.BinOp):
        yield from (*_texts(seen.left), *_texts(seen.right))
    elif isinstance(seen, ast.JoinedStr):
        yield from (str(part.value) for part in seen.values if isinstance(part, ast.Constant))


def _named_checks(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func) == "Check"
        ):
            yield ast.unparse(node.targets[0]), ast.literal_eval(node.value.args[0])


def _checks_of_tables(tree: ast.Module) -> dict[str, str]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {ast.unparse(c.args[1]): ast.unparse(c.args[0]) for c in calls if ast.unparse(c.func) == "first_match"}


def _slug(seen: ast.expr) -> str:
    return re.sub(r"[^a-z]+", "-", re.sub(r"\{[^}]*\}", " ", ast.unparse(seen).lower())).strip("-")
