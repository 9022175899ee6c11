"""What commands print on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from edge_agent.cli.output import print_facts


def test_a_value_that_is_longer_than_the_line_is_printed_whole():
    """A site key has 64 digits: at 80 columns a person still reads, and copies, all of them."""
    key = "0123456789abcdef" * 4
    console = Console(file=io.StringIO(), width=80)
    print_facts(console, {"credentials": "encrypted to this machine", "site key of the site": key})
    printed = console.file.getvalue()
    assert key in "".join(printed.split())
    assert max(map(len, printed.splitlines())) <= 80
