"""One row of the table: a finding of doctor, how its fault is made, and the effect of its remedy.

@made("state-dir/warning/is-every-user-may-read-it")
def open_folder(site: FaultySite) -> None:
    ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.finding_cases.kinds import FindingKind
from tests.support.finding_cases.site import FaultySite, Settings, plain
from tests.support.reason_cases.case import CaseOutcome, RemedyCase
from tests.support.remedy_commands import OWN, RemedyCommand, command_lines

Step = Callable[[FaultySite], None]


@dataclass(frozen=True)
class Fault:
    """How a finding's fault is made and removed."""

    make: Step
    with_it: tuple[str, ...] = ()
    """Checks that necessarily report the same fault."""
    settings: Settings = plain
    has_task: bool = True
    is_appliance: bool = False
    """The machine looks installed: see appliance.py."""
    prepare: Step | None = None
    """What runs at the healthy site beside the daemon."""
    by_hand: Step | None = None
    """What the remedy's sentence tells a person to do beside the commands, such as an edit; it is done first."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What a person writes for the placeholders of the commands."""
    person: str = ""
    """Whom the remedy names, where nobody at the site can remove the fault."""
    leaves: tuple[str, ...] = ()
    """Checks of which a note, and nothing worse, stays after the cure."""
    asks_nothing: bool = False
    """It is a note for which nothing has to be done, and has no remedy."""


@dataclass(frozen=True)
class FindingOutcome:
    """The outcome of a row."""

    shown: list[str]
    """Checks that newly reported."""
    left: list[str]
    """What was not cured: checks that still report, or did not report before the fault."""


@dataclass(frozen=True)
class FindingCase:
    """A row of the table. A row with neither fault nor test of a booted machine nor excuse is not implemented yet."""

    kind: FindingKind
    fault: Fault | None = None
    excused: str = ""
    """Why its remedy is not run, for good."""
    played_by: str = ""
    """The test that makes it on a machine that systemd runs."""

    @property
    def name(self) -> str:
        """Return its name."""
        return self.kind.name

    @property
    def expected(self) -> list[str]:
        """Return the checks that report its fault."""
        assert self.fault is not None
        return sorted({self.kind.check, *self.fault.with_it})

    def run(self) -> FindingOutcome:
        """Make the fault, then follow the remedy."""
        fault = self.fault
        assert fault is not None, self.name
        with FaultySite(fault.settings, has_task=fault.has_task, is_appliance=fault.is_appliance) as site:
            if fault.prepare is not None:
                fault.prepare(site)
            before = set(map(key_of, site.everything()))
            fault.make(site)
            found = [each for each in site.everything() if key_of(each) not in before]
            shown = sorted({each["check"] for each in found})
            own = next((each for each in found if self.kind.matches(each)), None)
            if own is None:
                said = "; ".join(f"{each['check']} {each['verdict']}: {each['seen']}" for each in found)
                return FindingOutcome(shown, [f"it was not reported, but: {said or 'nothing'}"])
            return FindingOutcome(shown, self._follow(fault, site, own, before))

    def _follow(self, fault: Fault, site: FaultySite, own: dict[str, str], before: set[tuple[str, ...]]) -> list[str]:
        if fault.asks_nothing:
            return [text for text in (own["remedy"], own["command"]) if text]
        if fault.person:
            return [] if fault.person in own["remedy"] else [f"it names no {fault.person}: {own['remedy']}"]
        if fault.by_hand is not None:
            fault.by_hand(site)
        outcomes = site.runner.run_all(filter(_is_run, command_lines(own["command"])), **fault.words)
        left = _left(fault, site, before)
        return [*left, *(outcome.said for outcome in outcomes if outcome.code and left)]

    def as_row(self) -> RemedyCase:
        """Return it as a row of the sweep; an unimplemented row has neither a player nor an excuse."""
        return RemedyCase(self.name, "technician", self._play if self.fault else None, self.excused, self.played_by)

    def _play(self, _: Path) -> CaseOutcome:
        """Run it, for the sweep, which counts."""
        outcome, fault = self.run(), self.fault
        assert fault is not None
        assert (self.expected, []) == (outcome.shown, outcome.left), f"{outcome.shown}; {' '.join(outcome.left)}"
        person = fault.person or ("nobody: nothing has to be done" if fault.asks_nothing else "")
        return CaseOutcome((self.name,), cured=not person, person=person)


def _left(fault: Fault, site: FaultySite, before: set[tuple[str, ...]]) -> list[str]:
    """Return the checks that report after the cure and did not before the fault, but for notes that it leaves."""
    noted = {(check, "note") for check in fault.leaves}
    found = [each for each in site.everything() if key_of(each) not in before]
    return sorted({each["check"] for each in found if (each["check"], each["verdict"]) not in noted})


def key_of(finding: Mapping[str, str]) -> tuple[str, ...]:
    """Return the key that distinguishes findings."""
    return finding["check"], finding["verdict"], finding["about"]


def _is_run(command: RemedyCommand) -> bool:
    """Return whether a command changes something; commands that only show, and editors, do not count."""
    return command.steps[0][0] in ("sudo", "tail", *OWN) and not re.search(r"journalctl|dmesg|\bss\b", command.text)


MADE: dict[str, Fault] = {}
"""Faults that are made, by the name of their kind."""


def made(kind: str, **more: Any) -> Callable[[Step], Step]:
    """Make a function the row of a kind."""

    def keep(make: Step) -> Step:
        assert kind not in MADE, kind
        MADE[kind] = Fault(make, **more)
        return make

    return keep
