"""`edge-agent status --code` and `--qr`: the state of a site, to be read out or photographed. docs/state-code.md.

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
from edge_agent.cli.watch_screen import ASCII, glyphs_for
from edge_agent.client import Status, Task, TaskUpdate
from edge_agent.formats.state_code import (
    GROUP_CHARACTERS,
    PREFIX,
    SiteSummary,
    TaskSummary,
    attention_first,
    encode,
    spoken_groups,
)

GROUPS_A_LINE = 5


def summarize(status: Status, now: datetime) -> SiteSummary:
    """Return the content of a code: names, versions and states, nothing about inputs or answers."""
    return SiteSummary(
        site=status.site,
        agent_version=status.agent_version,
        minutes=int(now.timestamp() // 60),
        serving=status.serving,
        link=status.uplink.state.lower() if status.uplink else "",
        tasks=attention_first([_summarize_task(task, status) for task in status.tasks]),
    )


def _summarize_task(task: Task, status: Status) -> TaskSummary:
    states = [engine.state.lower() for engine in status.engines if task.name in engine.tasks]
    engine_state = next((state for state in states if state != "ready"), "not_ready")
    update = _update_of(task.name, status)
    target_version = update.candidate.version if update and update.candidate else ""
    return TaskSummary(
        task=task.name,
        version=task.bundle.version,
        state="ready" if task.ready else engine_state,
        update=update.state.lower() if update else "",
        to_version="" if target_version == task.bundle.version else target_version,
        alarms=tuple(alarm.alarm for alarm in status.alarms if alarm.task == task.name),
    )


def _update_of(task: str, status: Status) -> TaskUpdate | None:
    updates = status.updates.tasks if status.updates else ()
    return next((update for update in updates if update.task == task and update.candidate), None)


def print_code(console: Console, status: Status, now: datetime) -> None:
    """Print the code in groups for reading aloud."""
    groups = spoken_groups(encode(summarize(status, now)))
    site = status.site or "this machine, which is not enrolled"
    check_hint = f"the last of each checks the {GROUP_CHARACTERS} before"
    print_trimmed(
        console, f"State of {site}, {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC, in {len(groups)} groups; {check_hint}:"
    )
    for start in range(0, len(groups), GROUPS_A_LINE):
        line = groups[start : start + GROUPS_A_LINE]
        numbers = f"{start + 1}-{start + len(line)}"
        print_trimmed(console, Text.assemble((f"  {numbers:>6}:  ", "dim"), ("  ".join(line), "bold")))
    print_trimmed(console, "0 and 1 are digits: no code has the letters I, L, O and U.")
    print_trimmed(console, "The central team reads it with: edge-convert sites decode GROUPS")


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
    qr_code = segno.make(content, error="l", mode="alphanumeric", micro=False, boost_error=True)
    return [[bool(module) for module in row] for row in qr_code.matrix]


def half_blocks(modules: Sequence[Sequence[bool]], *, inverted: bool) -> list[str]:
    """Draw modules with a margin, two rows a line; `inverted` = a block is a light module."""
    width = len(modules[0]) + 2 * MARGIN_MODULES
    margin = [[False] * width] * MARGIN_MODULES
    side = [False] * MARGIN_MODULES
    rows = [*margin, *([*side, *row, *side] for row in modules), *margin]
    blocks = [[dark != inverted for dark in row] for row in rows]
    lower_rows = blocks[1::2] if len(blocks) % 2 == 0 else [*blocks[1::2], [False] * width]
    return [
        "".join(_HALVES.get(pair, _FULL) for pair in zip(upper, lower, strict=True))
        for upper, lower in zip_longest(blocks[::2], lower_rows)
    ]
