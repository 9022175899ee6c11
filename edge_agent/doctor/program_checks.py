"""The installed program: its packages, its versions next to each other, the command."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.doctor.findings import Check, Finding
from edge_agent.doctor.installation import read_text
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext

PACKAGES = Check("packages", "program")
INSTALLED = Check("installation", "program")
PREVIOUS = Check("previous-version", "program")
COMMAND = Check("command", "program")

PACKAGE_NAMES = ("llama_cpp_python", "onnxruntime", "tokenizers", "grpcio")
FOLDER = "/opt/edge-agent"
COMMAND_PATH = "usr/local/bin/edge-agent"
RUN_INSTALLER = "Run the installer again: it makes the links again, and keeps settings and data."
_PRINT_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"
_INSTALLER = "sudo sh edge-agent-*-linux-x86_64.run"


@dataclass(frozen=True)
class ProgramLink:
    """A symbolic link to a program, or its absence."""

    target: str = ""
    """Where it points; empty when there is no link."""
    is_complete: bool = False
    """The program at its end exists, is executable, and has its Python."""
    lost_python: str = ""
    """The version of Python that it was made for, where that is gone."""


@dataclass(frozen=True)
class ProgramFacts:
    """What is installed, and what runs now."""

    python: str
    packages: Mapping[str, str]
    """Version by name; empty when not installed."""
    prefix: str
    """Where the running program is installed."""
    folder: str
    """/opt/edge-agent."""
    installed: bool
    """The folder of versions exists."""
    current: ProgramLink
    previous: ProgramLink
    command: ProgramLink
    """/usr/local/bin/edge-agent."""


def probe_program(context: ProbeContext) -> ProgramFacts:
    """Look at packages and links, without loading anything."""
    folder = context.installation.at(FOLDER)
    return ProgramFacts(
        python=platform.python_version(),
        packages={name: _package_version(name) for name in PACKAGE_NAMES},
        prefix=sys.prefix,
        folder=FOLDER,
        installed=(folder / "venvs").is_dir(),
        current=_version_link(folder / "current", context.installation.run),
        previous=_version_link(folder / "previous", context.installation.run),
        command=_read_link(context.installation.at(COMMAND_PATH)),
    )


def _package_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _read_link(path: Path, inside: str = "") -> ProgramLink:
    if not path.is_symlink():
        return ProgramLink(str(path), os.access(path, os.X_OK)) if path.is_file() else ProgramLink()
    program = path / inside if inside else path
    return ProgramLink(str(path.readlink()), program.is_file() and os.access(program, os.X_OK))


def _version_link(path: Path, run: Callable[[Sequence[str]], str | None]) -> ProgramLink:
    """Look at a link to a version that setup made; an upgrade of the system replaces the Python that it needs."""
    link = _read_link(path, "bin/edge-agent")
    if not link.is_complete:
        return link
    try:
        python_version = str(json.loads(read_text(path / "program.json"))["python"])
    except (OSError, ValueError, TypeError, KeyError):
        return link
    output = run((str(path / "bin/python"), "-I", "-S", "-c", _PRINT_VERSION))
    return link if output and output.strip() == python_version else ProgramLink(link.target, lost_python=python_version)


def judge_program(facts: ProgramFacts) -> Iterator[Finding]:
    """Judge the packages, then the links of the installer."""
    missing = [name for name, version in facts.packages.items() if not version]
    if missing and facts.installed:
        yield PACKAGES.fault(f"not installed: {', '.join(missing)}", RUN_INSTALLER, _INSTALLER)
    elif missing:
        remedy = "A bundle that needs one does not load. In a clone of the repository, scripts/setup installs them."
        yield PACKAGES.note(f"not installed: {', '.join(missing)}", remedy)
    else:
        versions = ", ".join(f"{name} {version}" for name, version in facts.packages.items())
        yield PACKAGES.ok(f"Python {facts.python}, {versions}")
    if not facts.installed:
        yield INSTALLED.note(f"not made by the installer: this program runs from {facts.prefix}")
        return
    yield _judge_current(facts)
    yield _judge_previous(facts)
    yield _judge_command(facts)


def _judge_current(facts: ProgramFacts) -> Finding:
    path = f"{facts.folder}/current"
    if not facts.current.target:
        return INSTALLED.fault(f"{path} does not exist: no version is selected", RUN_INSTALLER, _INSTALLER)
    if not facts.current.is_complete:
        remedy = "That version is missing or incomplete. Go back to the previous one, or run the installer again."
        # The link to edge-agent-setup leads into the broken version, too.
        command = (
            f"sudo {facts.folder}/previous/bin/edge-agent-setup rollback" if facts.previous.is_complete else _INSTALLER
        )
        return INSTALLED.fault(f"{path} points to {facts.current.target}, which is broken", remedy, command)
    return INSTALLED.ok(f"{path} points to {facts.current.target}")


def _judge_previous(facts: ProgramFacts) -> Finding:
    path = f"{facts.folder}/previous"
    if not facts.previous.target:
        return PREVIOUS.note("there is no previous version to go back to; the next upgrade keeps the current one")
    if not facts.previous.is_complete:
        python = facts.previous.lost_python
        why = f"needs Python {python}, which is gone from this machine" if python else "is broken"
        seen = f"{path} points to {facts.previous.target}, which {why}: a rollback would fail"
        remedy = "Keep the current version; the next upgrade makes a new previous one."
        return PREVIOUS.warning(seen, remedy, "ls -l /opt/edge-agent")
    return PREVIOUS.ok(f"{facts.previous.target} exists; 'sudo edge-agent-setup rollback' goes back to it")


def _judge_command(facts: ProgramFacts) -> Finding:
    if not facts.command.is_complete:
        return COMMAND.fault("/usr/local/bin/edge-agent is missing or points nowhere", RUN_INSTALLER, _INSTALLER)
    if not facts.command.target.startswith(facts.folder):
        seen = f"/usr/local/bin/edge-agent points to {facts.command.target}, not into {facts.folder}"
        return COMMAND.warning(seen, "Two versions are mixed. " + RUN_INSTALLER, _INSTALLER)
    return COMMAND.ok(f"it points to {facts.command.target}")


GROUPS = (CheckGroup((PACKAGES, INSTALLED, PREVIOUS, COMMAND), probe_program, judge_program),)
