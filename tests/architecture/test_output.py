"""Commands print by one way, and the rule that holds them to it finds the others."""

from pathlib import Path

import pytest

from tests.architecture import output
from tests.architecture.source import load, parse


def test_commands_print_by_one_way():
    """What a command shows passes the module that escapes what a terminal would obey."""
    sources = load(Path(__file__).parents[2], ["edge_agent/cli", "convert/cli"])
    assert [] == output.unguarded(sources, ["edge_agent.cli", "convert.cli"], "edge_agent.cli.terminal")


@pytest.mark.parametrize("call", ["print(x)", "Console().print(x)", "typer.echo(x)", "sys.stdout.write(x)"])
def test_another_way_is_found(call):
    """In a command; not in the module that makes text printable, nor in what is no command."""
    sources = [parse(f"app/{name}.py", f"f()\n{call}") for name in ("cli/show", "cli/guard", "store")]
    found = output.unguarded(sources, ["app.cli"], "app.cli.guard")
    assert ["app/cli/show.py:2"] == [each.partition(": ")[0] for each in found]
