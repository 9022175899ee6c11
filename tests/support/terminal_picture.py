"""Draws what a command prints on a terminal as an SVG file, for the README.

python -m tests.support.terminal_picture docs/demo.svg --lines 74 --title "scripts/demo --quick" -- scripts/demo --quick

The command runs on a pseudo-terminal, by default 100 columns wide. Progress that overwrites its own line leaves its
last state, and so do frames over one another.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS = 100
_OTHER_SCREEN, _OTHER_SCREEN_LEFT, _HOME = "\x1b[?1049h", "\x1b[?1049l", "\x1b[H"


def captured(command: Sequence[str], columns: int = COLUMNS, lines: int = 60) -> str:
    """Run the command on a pseudo-terminal and return what it wrote, with its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(lines)}
    running = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    read = bytearray()
    try:
        while chunk := os.read(ours, 65536):
            read += chunk
    except OSError:
        pass  # Linux reports the end of a pseudo-terminal as an error
    os.close(ours)
    if running.wait():
        sys.exit(f"{command[0]} ended with {running.returncode}")
    return read.decode("utf-8", errors="replace")


def settled(output: str) -> list[str]:
    """Return the lines as they stand at the end: cursor movements, and what they overwrote, are gone."""
    lines: list[str] = []
    if _OTHER_SCREEN in output:  # frames over one another: the last one
        output = output.partition(_OTHER_SCREEN_LEFT)[0].rpartition(_HOME)[2]
    for line in output.replace("\r\n", "\n").split("\n"):
        up = sum(int(count or 1) for count in re.findall(r"\x1b\[(\d*)A", line))
        if up:
            del lines[max(0, len(lines) - up) :]
        last = re.sub(r"\x1b\[(?:\d*[A-LSTfu]|\?\d+[hl]|[su])", "", line).split("\r")[-1]
        lines.append(last)
    return lines


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--title", default="")
    parser.add_argument("--lines", type=int, default=60, help="the last so many lines")
    parser.add_argument("--columns", type=int, default=COLUMNS)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    lines = settled(captured(arguments.command, arguments.columns, arguments.lines))
    while lines and not lines[-1].strip():
        lines.pop()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=arguments.columns, file=nowhere, force_terminal=True, color_system="256")
        console.print(Text.from_ansi("\n".join(lines[-arguments.lines :])))
    drawn = console.export_svg(title=arguments.title, theme=MONOKAI)
    # The fonts that rich names would be fetched from a network.
    drawn = re.sub(r"@font-face \{.*?\}\n", "", drawn, flags=re.DOTALL)
    arguments.picture.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
