"""`edge-agent status --qr`: the state of a site as a QR code of half blocks, to be photographed. docs/state-code.md.

Two modules share a character, so that a code of 37 modules with its margin fits 80 columns and 24 lines. With colours
it is black on white. Without them a block is a light module, as terminals have a dark background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest

import segno
from rich.console import Console
from rich.text import Text

from edge_agent.cli.output import print_trimmed
from edge_agent.cli.site_summary import print_code, summarize
from edge_agent.cli.watch_screen import ASCII, glyphs_for
from edge_agent.client import Status
from edge_agent.formats.state_code import PREFIX, encode

MARGIN_MODULES = 2
_HALVES = {(False, False): " ", (True, False): "\N{UPPER HALF BLOCK}", (False, True): "\N{LOWER HALF BLOCK}"}
_FULL = "\N{FULL BLOCK}"


def print_qr(console: Console, status: Status, now: datetime, environ: Mapping[str, str]) -> None:
    """Print the QR code, or where the terminal has no blocks the code in groups."""
    if glyphs_for(environ) is ASCII:
        print_code(console, status, now)
        print_trimmed(
            console,
            "This terminal's locale has no blocks for a QR code. If it can show them: "
            "LC_ALL=C.UTF-8 edge-agent status --qr",
        )
        return
    lines = half_blocks(qr_modules(PREFIX + encode(summarize(status, now))), inverted=console.color_system is None)
    for line in lines:
        console.print(Text(line, "black on bright_white" if console.color_system else ""), no_wrap=True)
    site = f"{status.site}, " if status.site else ""
    print_trimmed(console, f"{site}{now.astimezone(UTC):%Y-%m-%d %H:%M} UTC; read with: edge-convert sites decode TEXT")


def qr_modules(content: str) -> list[list[bool]]:
    """Return the modules of a QR code, row by row; True = dark."""
    made = segno.make(content, error="l", mode="alphanumeric", micro=False, boost_error=True)
    return [[bool(module) for module in row] for row in made.matrix]


def half_blocks(modules: Sequence[Sequence[bool]], *, inverted: bool) -> list[str]:
    """Draw modules with a margin, two rows a line; `inverted` = a block is a light module."""
    width = len(modules[0]) + 2 * MARGIN_MODULES
    margin = [[False] * width] * MARGIN_MODULES
    side = [False] * MARGIN_MODULES
    rows = [*margin, *([*side, *row, *side] for row in modules), *margin]
    drawn = [[dark != inverted for dark in row] for row in rows]
    below = drawn[1::2] if len(drawn) % 2 == 0 else [*drawn[1::2], [False] * width]
    return [
        "".join(_HALVES.get(pair, _FULL) for pair in zip(upper, lower, strict=True))
        for upper, lower in zip_longest(drawn[::2], below)
    ]
