"""One row of the remedy sweep: a fault, its error for a user, and the effect of its remedy.

@case("TASK_UNKNOWN", "device")
def task_unknown(folder: Path) -> CaseOutcome:
    ...
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.client import CallFailed
from tests.support.daemon import RunningDaemon
from tests.support.remedy_commands import Outcome, RemedyRunner, commands_in

SECONDS_MAX = 120.0
_REASON = re.compile(r"^ *reason: ([A-Z_]+), exit code (\d+)$", re.MULTILINE)
_REMEDY = re.compile(r"^ *what to do: (.*)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class CaseOutcome:
    """The outcome of a row."""

    shown: tuple[str, ...]
    """Every reason, or finding, that appeared."""
    cured: bool
    """The remedy, followed as printed, removed the fault."""
    person: str = ""
    """Who the remedy names, where nobody at the site can remove it."""


@dataclass(frozen=True)
class RemedyCase:
    """A row: one reason of the catalogue, or one finding of doctor."""

    name: str
    user: str
    """Who meets it: device, reviewer, operator, technician, central."""
    play: Callable[[Path], CaseOutcome] | None = None
    """Makes the fault in an empty folder, and follows its remedy."""
    excused: str = ""
    """Why it is not played."""
    played_by: str = ""
    """The test that plays it, on a machine that systemd runs; the sweep leaves it to that test."""


@dataclass(frozen=True)
class CommandEnd:
    """How a command ended."""

    code: int
    text: str

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons in its output."""
        return tuple(reason for reason, _ in _REASON.findall(self.text))

    @property
    def remedy(self) -> str:
        """The remedy in its output."""
        found = _REMEDY.search(self.text)
        return " ".join(found[1].split()) if found else ""


CASES: dict[str, RemedyCase] = {}
"""The rows of the catalogue's reasons, and of the client's, by reason."""


def case(reason: str, user: str) -> Callable[[Callable[[Path], CaseOutcome]], Callable[[Path], CaseOutcome]]:
    """Make a function the row of a reason."""

    def keep(play: Callable[[Path], CaseOutcome]) -> Callable[[Path], CaseOutcome]:
        assert reason not in CASES, reason
        CASES[reason] = RemedyCase(reason, user, play)
        return play

    return keep


def excuse(reason: str, user: str, why: str) -> None:
    """Make a row that is not played."""
    assert reason not in CASES, reason
    CASES[reason] = RemedyCase(reason, user, excused=why)


def run(*command: object, cwd: Path | None = None) -> CommandEnd:
    """Run a command, with `-v` among its arguments so that it names its reason."""
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
    )
    return CommandEnd(done.returncode, done.stdout + done.stderr)


def edge_agent(daemon: RunningDaemon, *arguments: object) -> CommandEnd:
    """Run edge-agent for a daemon, which need not run."""
    return run(*daemon.command(), "-v", *arguments)


def follow(daemon: RunningDaemon, folder: Path, remedy: str, **placeholders: str) -> list[Outcome]:
    """Run every command that a remedy prints; there must be one."""
    commands = commands_in(remedy)
    assert commands, f"no command in: {remedy}"
    return RemedyRunner(folder / "remedy", edge_agent=daemon.command()).run_all(commands, **placeholders)


def worked(outcomes: list[Outcome]) -> bool:
    """Return whether every command succeeded; raises with the output of the first that failed."""
    failed = [each.said for each in outcomes if each.code]
    assert not failed, failed[0]
    return True


def failure(call: Callable[[], object]) -> CallFailed:
    """Return the error that a call ends with."""
    try:
        answer = call()
    except CallFailed as failed:
        return failed
    raise AssertionError(f"it succeeded: {answer}")
