"""What a check says: a verdict, what was seen with its numbers, and what to do, as a command to paste. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Verdict = Literal["ok", "note", "warning", "unseen", "fault"]
VERDICTS: tuple[Verdict, ...] = ("ok", "note", "warning", "unseen", "fault")
"""From good to bad. What could not be looked at may be at fault, so it is worse than a warning."""


@dataclass(frozen=True)
class Finding:
    """One line of doctor."""

    check: str
    """Name of the check: the run book has an entry for it."""
    area: str
    verdict: Verdict
    seen: str
    remedy: str = ""
    """What to do, as a sentence; empty where nothing is to be done."""
    command: str = ""
    """The same as a command for a shell; empty where none does it."""
    about: str = ""
    """Which engine, task, socket or file; empty = the only one."""


@dataclass(frozen=True)
class Check:
    """One kind of thing that is looked at."""

    name: str
    area: str

    def ok(self, seen: str, *, about: str = "") -> Finding:
        """All is well."""
        return Finding(self.name, self.area, "ok", seen, about=about)

    def note(self, seen: str, remedy: str = "", command: str = "", *, about: str = "") -> Finding:
        """Nothing is wrong; somebody may want to know."""
        return Finding(self.name, self.area, "note", seen, remedy, command, about)

    def warning(self, seen: str, remedy: str, command: str = "", *, about: str = "") -> Finding:
        """It works, and will not for long, or less well than it could."""
        return Finding(self.name, self.area, "warning", seen, remedy, command, about)

    def fault(self, seen: str, remedy: str, command: str = "", *, about: str = "") -> Finding:
        """It does not work."""
        return Finding(self.name, self.area, "fault", seen, remedy, command, about)

    def unseen(self, why: str, *, about: str = "") -> Finding:
        """This user may not look, or there is nothing that answers."""
        remedy = "Run doctor as root to see more."
        return Finding(
            self.name, self.area, "unseen", f"could not look: {why}", remedy, "sudo edge-agent doctor", about
        )


@dataclass(frozen=True)
class Unseen:
    """What a probe gives instead of facts when it may not look."""

    why: str


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the worst verdict; ok when there are none."""
    return max((finding.verdict for finding in findings), key=VERDICTS.index, default="ok")


def counted(count: int, what: str) -> str:
    """Write a number with its noun."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def lasting(seconds: float) -> str:
    """Write a time span as people say it."""
    for size, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"


F = TypeVar("F")


@dataclass(frozen=True)
class Case(Generic[F]):
    """A line in a table of rules. The three sentences are templates over the facts, `f`."""

    verdict: Verdict
    when: Callable[[F], object]
    seen: str
    remedy: str = ""
    command: str = ""


def first(check: Check, cases: Sequence[Case[F]], facts: F, *, about: str = "") -> Iterator[Finding]:
    """Yield what the first case says whose condition holds; nothing when none does."""
    found = next((case for case in cases if case.when(facts)), None)
    if found:
        seen, remedy, command = (part.format(f=facts) for part in (found.seen, found.remedy, found.command))
        yield Finding(check.name, check.area, found.verdict, seen, remedy, command, about)


def otherwise(_: object) -> bool:
    """Hold always: the last line of a table."""
    return True
