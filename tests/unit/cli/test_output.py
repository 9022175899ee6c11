"""Tables, facts and questions that commands print on a terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios

from rich.console import Console
from rich.table import Table

from edge_agent.cli.output import print_facts, print_trimmed
from edge_agent.cli.terminal import table


def drawn(made: Table, width: int = 80) -> list[str]:
    """Return the lines of a table on a terminal of this width."""
    console = Console(file=io.StringIO(), width=width)
    print_trimmed(console, made)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


LONG = "front-desk-messages-of-customers-by-mail"


def engines(*tasks: str) -> Table:
    """Return the table of `status`, with the cells of a busy machine."""
    columns = ("engine", "state", "device", "pid", "memory", "pending", "restarts", "tasks")
    made = table(*columns, right=("pid", "memory", "pending", "restarts"), wrap=("tasks",))
    made.add_row("llama-3f2a91bc", "backing_off", "vulkan:0", "123456", "1.0 GB", "11", "0", ", ".join(tasks))
    return made


def test_last_column_moves_below_the_row_if_it_does_not_fit() -> None:
    """At 80 columns names that do not fit are printed below their row, so no name or heading is broken; at 140 columns
    all is on one line."""
    assert [
        "engine          state        device       pid  memory  pending  restarts",
        "  tasks",
        "llama-3f2a91bc  backing_off  vulkan:0  123456  1.0 GB       11         0",
        f"  {LONG}, pos-intent",
    ] == drawn(engines(LONG, "pos-intent"))
    assert f"0  {LONG}, pos-intent" in drawn(engines(LONG, "pos-intent"), 140)[1]


def test_long_name_in_first_column_is_printed_above_its_row() -> None:
    """If a name in the first column is too long, names are printed above their rows, the other columns stay aligned,
    and running text wraps in the remaining width."""
    made = table("task", "wanted", "state", "why", wrap=("task", "why"))
    why = "waits for 210 MB of free space on the disk of the store, which is full"
    made.add_row(LONG, "1.3.0", "rolled back", why)
    made.add_row("pos-intent", "1.3.0", "done", "-")
    assert [
        "task",
        "  wanted  state        why",
        LONG,
        "  1.3.0   rolled back  waits for 210 MB of free space on the disk of the store,",
        "                       which is full",
        "pos-intent",
        "  1.3.0   done         -",
    ] == drawn(made)


def test_row_too_wide_for_any_layout_has_one_line_per_cell() -> None:
    """A table that fits in no other way prints one line for each cell; nothing is cut and no word is broken."""
    amounts = ("spent today", "spent this month", "saved today", "saved this month")
    made = table("task", *amounts, right=amounts, wrap=("task",))
    made.add_row(LONG, *4 * ["1,234,567,890.50 EUR"])
    made.add_row("pos-intent", *4 * ["-"])
    assert [
        f"task              {LONG}",
        *(f"{name:<16}  1,234,567,890.50 EUR" for name in amounts),
        "",
        "task              pos-intent",
    ] == drawn(made)[:7]


def test_confirmation_wraps_its_consequence_at_terminal_width():
    """The consequence in a confirmation is wrapped between words within 80 columns."""
    consequence = (
        "Version 1.0.0 stops answering 'pos-intent', and nothing else answers it: calls of the task fail. " * 3
    )
    program = f"from edge_agent.cli.output import confirm; confirm('Remove it?', {consequence!r}, yes=False)"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environ = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ) as asking:
        os.close(theirs)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, b"n\n")
    os.close(ours)
    assert asking.returncode
    assert max(map(len, shown.decode().split("\r\n"))) <= 80
    assert consequence.split() == " ".join(shown.decode().split()).removesuffix("Remove it? [y/N]:").split()


def test_value_longer_than_the_line_is_wrapped_not_cut():
    """A site key of 64 digits is printed completely within 80 columns, so that a person can read and copy it."""
    key = "0123456789abcdef" * 4
    console = Console(file=io.StringIO(), width=80)
    print_facts(console, {"credentials": "encrypted to this machine", "site key of the site": key})
    printed = console.file.getvalue()
    assert key in "".join(printed.split())
    assert max(map(len, printed.splitlines())) <= 80
