"""What status shows of the large model."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from edge_agent.cli.output import print_trimmed
from edge_agent.cli.styles import duration
from edge_agent.client import LargeModel

_MICROS = 1_000_000


def show(console: Console, large: LargeModel) -> None:
    """Say whether it can be asked, and what it has cost."""
    said = Text.assemble("large model", f" {large.model}" if large.model else "", ": ", state(large))
    if large.day_micros_max or large.month_micros_max or large.month_micros:
        day = _amount(large.day_micros, large.day_micros_max)
        said.append(f"; today {day}, this month {_amount(large.month_micros, large.month_micros_max)}")
    print_trimmed(console, said)
    if not large.tasks:
        print_trimmed(console, "  no task may ask it: set 'tasks' under 'escalation' in agent.yaml")
    if line := _later(large):
        print_trimmed(console, f"  {line}")
    if large.problem:
        print_trimmed(console, Text.assemble(("large model: ", "red"), large.problem))


def state(large: LargeModel) -> Text:
    """Say whether it can be asked now, and how long it takes."""
    said = Text.assemble(("online", "green") if large.online else ("offline", "red"))
    if large.usual_ms:
        said.append(f", usually {large.usual_ms:.0f} ms")
    if not large.affordable and large.online:
        said.append(", spent up", "yellow")
    return said


def _later(large: LargeModel) -> str:
    """Say what becomes of the questions that nobody waits for; empty = there were none."""
    parts = (_waiting(large), f"{large.opinions} answered" if large.opinions else "", _given_up(large))
    said = "; ".join(filter(None, parts))
    return f"asked later: {said}" if said else ""


def _waiting(large: LargeModel) -> str:
    words = {"deferred": "put off", "audit": "to audit"}
    waiting = [f"{large.waiting[why]} {said}" for why, said in words.items() if large.waiting.get(why)]
    return f"{' and '.join(waiting)}, the oldest {duration(large.waiting_seconds)} ago" if waiting else ""


def _given_up(large: LargeModel) -> str:
    return ", ".join(f"{number} {why}" for why, number in sorted(large.given_up.items()) if number)


def _amount(micros: int, cap: int) -> str:
    return f"{micros / _MICROS:.2f}" + (f" of {cap / _MICROS:.2f}" if cap else "")
