"""The installed program: its packages, its versions side by side, the command. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edge_agent.doctor.findings import Check, Finding

PACKAGES = Check("packages", "program")
INSTALLED = Check("installation", "program")
PREVIOUS = Check("previous-version", "program")
COMMAND = Check("command", "program")
MANUAL = "Run the installer again: it makes the links anew, and keeps settings and data."
_RERUN = "sudo sh edge-agent-*-linux-x86_64.run"


@dataclass(frozen=True)
class Link:
    """A symbolic link, or none."""

    target: str = ""
    """Where it leads; empty = there is no link."""
    whole: bool = False
    """The program at its end is there and can be started."""


@dataclass(frozen=True)
class ProgramFacts:
    """What is installed, and what runs now."""

    python: str
    packages: Mapping[str, str]
    """Version by name; empty = not installed."""
    prefix: str
    """Where this very program runs from."""
    folder: str
    """/opt/edge-agent."""
    installed: bool
    """The folder of versions is there."""
    current: Link
    previous: Link
    command: Link
    """/usr/local/bin/edge-agent."""


def program(facts: ProgramFacts) -> Iterator[Finding]:
    """Judge the installation."""
    missing = [name for name, version in facts.packages.items() if not version]
    if missing:
        yield PACKAGES.fault(f"not installed: {', '.join(missing)}", MANUAL, _RERUN)
    else:
        said = ", ".join(f"{name} {version}" for name, version in facts.packages.items())
        yield PACKAGES.ok(f"Python {facts.python}, {said}")
    if not facts.installed:
        yield INSTALLED.note(f"none by the installer: this program runs from {facts.prefix}")
        return
    yield _current(facts)
    yield _previous(facts)
    yield _command(facts)


def _current(facts: ProgramFacts) -> Finding:
    path = f"{facts.folder}/current"
    if not facts.current.target:
        return INSTALLED.fault(f"{path} is not there: no version is chosen", MANUAL, _RERUN)
    if not facts.current.whole:
        remedy = "Its version is gone or not whole. Go back to the one before, or run the installer again."
        return INSTALLED.fault(f"{path} leads to {facts.current.target}, which is broken", remedy, _rollback(facts))
    return INSTALLED.ok(f"{path} leads to {facts.current.target}")


def _rollback(facts: ProgramFacts) -> str:
    return "sudo edge-agent-setup rollback" if facts.previous.whole else _RERUN


def _previous(facts: ProgramFacts) -> Finding:
    path = f"{facts.folder}/previous"
    if not facts.previous.target:
        return PREVIOUS.note("there is none yet: this is the first version here")
    if not facts.previous.whole:
        said = f"{path} leads to {facts.previous.target}, which is broken: a rollback would fail"
        return PREVIOUS.warning(
            said, "Keep the present version; the next upgrade makes a new one.", "ls -l /opt/edge-agent"
        )
    return PREVIOUS.ok(f"{facts.previous.target} is there; 'sudo edge-agent-setup rollback' goes back to it")


def _command(facts: ProgramFacts) -> Finding:
    if not facts.command.whole:
        return COMMAND.fault("/usr/local/bin/edge-agent is missing or leads nowhere", MANUAL, _RERUN)
    if not facts.command.target.startswith(facts.folder):
        said = f"/usr/local/bin/edge-agent leads to {facts.command.target}, not into {facts.folder}"
        return COMMAND.warning(said, "Two versions are mixed. " + MANUAL, _RERUN)
    return COMMAND.ok(f"it leads to {facts.command.target}")
