"""Commands print through one module, and the rule finds every other way."""

from pathlib import Path

import pytest

from tests.architecture import output
from tests.architecture.source import load, parse


def test_commands_print_through_one_module():
    """Output of a command passes through the module that escapes control sequences for terminals."""
    sources = load(Path(__file__).parents[2], ["edge_agent/cli", "convert/cli"])
    assert [] == output.unguarded(sources, ["edge_agent.cli", "convert.cli"], "edge_agent.cli.terminal")


@pytest.mark.parametrize("call", ["print(x)", "Console().print(x)", "typer.echo(x)", "sys.stdout.write(x)"])
def test_other_ways_to_print_are_found(call):
    """The rule finds other ways to print in a command, but ignores the printing module itself and modules that are not
    commands."""
    sources = [parse(f"app/{name}.py", f"f()\n{call}") for name in ("cli/show", "cli/guard", "store")]
    found = output.unguarded(sources, ["app.cli"], "app.cli.guard")
    assert ["app/cli/show.py:2"] == [each.partition(": ")[0] for each in found]
