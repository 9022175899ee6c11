"""What a check reports: a verdict, what was seen with its numbers, and what to do, as a command to paste. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Verdict = Literal["ok", "note", "warning", "unseen", "fault"]
RIGHTS_REMEDY, RIGHTS_COMMAND = "Run doctor as root, which may look at everything.", "sudo edge-agent doctor"
VERDICTS: tuple[Verdict, ...] = ("ok", "note", "warning", "unseen", "fault")
"""From good to bad. A check that could not look ("unseen") may hide a fault, so it ranks above a warning."""


@dataclass(frozen=True)
class Finding:
    """One line of doctor."""

    check: str
    """Name of the check: docs/runbook.md has an entry for it, which 'edge-agent help NAME' prints."""
    area: str
    verdict: Verdict
    seen: str
    remedy: str = ""
    """What to do, as a sentence; empty where nothing has to be done."""
    command: str = ""
    """The same as a command for a shell; empty where no command does it."""
    about: str = ""
    """Which engine, task, socket or file; empty where there is only one."""


@dataclass(frozen=True)
class Check:
    """One property of the installation that doctor examines."""

    name: str
    area: str

    def ok(self, seen: str, *, about: str = "") -> Finding:
        """Report that it is healthy."""
        return Finding(self.name, self.area, "ok", seen, about=about)

    def note(self, seen: str, remedy: str = "", command: str = "", *, about: str = "") -> Finding:
        """Report something to know; nothing is wrong."""
        return Finding(self.name, self.area, "note", seen, remedy, command, about)

    def warning(self, seen: str, remedy: str, command: str = "", *, about: str = "") -> Finding:
        """Report that it works, but not for long, or less well than it could."""
        return Finding(self.name, self.area, "warning", seen, remedy, command, about)

    def fault(self, seen: str, remedy: str, command: str = "", *, about: str = "") -> Finding:
        """Report that it does not work."""
        return Finding(self.name, self.area, "fault", seen, remedy, command, about)

    def unseen(self, failure: ProbeFailure) -> Finding:
        """Report that the probe could not look."""
        remedy, command = (RIGHTS_REMEDY, RIGHTS_COMMAND) if failure.needs_rights else ("", "")
        return Finding(self.name, self.area, "unseen", f"not checked: {failure.why}", remedy, command)


@dataclass(frozen=True)
class ProbeFailure:
    """What a probe returns instead of facts: this user may not look, or nothing answers."""

    why: str
    needs_rights: bool = False
    """Another user may look."""


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the worst verdict; ok when there are no findings."""
    return max((finding.verdict for finding in findings), key=VERDICTS.index, default="ok")


F = TypeVar("F")


@dataclass(frozen=True)
class FindingRule(Generic[F]):
    """A line in a table of rules. `seen`, `remedy` and `command` are templates over the facts, `f`."""

    verdict: Verdict
    when: Callable[[F], object]
    seen: str
    remedy: str = ""
    command: str = ""


def first_match(check: Check, rules: Sequence[FindingRule[F]], facts: F, *, about: str = "") -> Iterator[Finding]:
    """Yield the finding of the first rule whose condition holds; nothing when no rule matches."""
    rule = next((rule for rule in rules if rule.when(facts)), None)
    if rule:
        seen, remedy, command = (part.format(f=facts) for part in (rule.seen, rule.remedy, rule.command))
        yield Finding(check.name, check.area, rule.verdict, seen, remedy, command, about)


def otherwise(_: object) -> bool:
    """Return True: the condition of a table's last line."""
    return True
