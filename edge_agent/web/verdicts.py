"""What the first page says at its top, and what it says of that which is not shown. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_agent.client import Status, Task
from edge_agent.config import Role
from edge_agent.report.number_format import counted
from edge_agent.web.daemon import Seen
from edge_agent.web.visitors import Visitor

Tone = Literal["good", "warn", "bad"]
SEES: dict[Role, str] = {
    "admin": "Health of engines, updates, alarms and charts",
    "feedback": "The review queue",
    "infer": "Tasks, and the gateway under /v1",
}
"""What each role brings to the page."""


@dataclass(frozen=True)
class Verdict:
    """How it is, in a glance."""

    tone: Tone
    headline: str
    sentence: str
    remedy: str = ""


@dataclass(frozen=True)
class Unseen:
    """Something that is not shown."""

    what: str
    why: str
    remedy: str


def health(seen: Seen, tasks: Sequence[Task] | None, status: Status | None) -> Verdict:
    """Judge what a visitor may see of the daemon."""
    if not seen.answers:
        return _silent(seen, known=bool(tasks or status))
    if not seen.serving:
        return Verdict("warn", "The daemon takes no new work", "It finishes what it has: somebody drained it.")
    asleep = [task.name for task in tasks or () if not task.ready]
    alarms = len(status.alarms) if status else 0
    if asleep:
        return Verdict("bad", f"{counted(len(asleep), 'task')} not ready", f"No answers from {', '.join(asleep)}.")
    if alarms:
        return Verdict("warn", f"{counted(alarms, 'alarm')} against what answers", "See below what to do.")
    if tasks is None:
        return Verdict("good", "The daemon answers", "More is for other roles.")
    if not tasks:
        return Verdict("warn", "No tasks yet", "'edge-agent install PATH' installs a bundle.")
    return Verdict("good", "All is well", f"{counted(len(tasks), 'task')}, all ready.")


def _silent(seen: Seen, *, known: bool) -> Verdict:
    problem = next(iter(seen.problems.values()), None)
    before = " What stands below is from before." if known else ""
    if problem is None:
        return Verdict("warn", "Nothing is asked of the daemon", f"This console asks for reviews alone.{before}")
    said = f"{problem.message[:1].upper()}{problem.message[1:]}. It is tried again every few seconds.{before}"
    return Verdict("bad", "The daemon does not answer", said, problem.remedy)


def unseen(seen: Seen, visitor: Visitor, used: frozenset[Role]) -> list[Unseen]:
    """Say what is not shown and why: the visitor's roles, this console's sockets, or the daemon's refusal."""
    found = []
    for role, what in SEES.items():
        if not visitor.may(role):
            why = f"your certificate has not the role {role}"
            found.append(Unseen(what, why, f"'edge-agent certs issue NAME --role {role}' makes one that has."))
        elif role not in used:
            why = f"this console does not use the role {role}"
            found.append(Unseen(what, why, "'roles' under 'web' in agent.yaml says which it uses."))
        elif seen.answers and role in seen.problems:
            found.append(Unseen(what, seen.problems[role].message, seen.problems[role].remedy))
    return found
