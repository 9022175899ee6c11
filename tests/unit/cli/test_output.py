"""What commands print on a terminal."""

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

from edge_agent.cli.output import print_facts


def test_a_question_shows_its_consequence_in_lines_of_the_terminal():
    """Whoever is asked whether a task is to be removed reads whole words, and whole commands."""
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


def test_a_value_that_is_longer_than_the_line_is_printed_whole():
    """A site key has 64 digits: at 80 columns a person still reads, and copies, all of them."""
    key = "0123456789abcdef" * 4
    console = Console(file=io.StringIO(), width=80)
    print_facts(console, {"credentials": "encrypted to this machine", "site key of the site": key})
    printed = console.file.getvalue()
    assert key in "".join(printed.split())
    assert max(map(len, printed.splitlines())) <= 80
