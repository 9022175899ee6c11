"""A rule on output: text for a terminal passes through the module that makes it printable."""

from __future__ import annotations

import ast
from collections.abc import Collection, Sequence

from tests.architecture.source import Source, below

DIRECT = ("print", "Console", "typer.echo", "click.echo", "sys.stdout.write", "sys.stderr.write")


def unguarded(sources: Sequence[Source], commands: Collection[str], guard: str) -> list[str]:
    """Find calls in commands that write to a terminal without the guard module."""
    return [
        source.at(node, f"calls {ast.unparse(node.func)}")
        for source in sources
        if below(source.module, commands) and source.module != guard
        for node in source.nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) in DIRECT
    ]
