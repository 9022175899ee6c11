"""The programs on this machine. Only the links `current` and `previous` record which one is in use."""

from __future__ import annotations

import itertools
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from installer.setup import durable_files, integrity, program_build
from installer.setup.errors import MACHINE, SetupError
from installer.setup.install_paths import InstallPaths
from installer.setup.payload import Payload
from installer.setup.target_machine import TargetMachine


@dataclass(frozen=True)
class InstalledProgram:
    """A program whose folder is complete."""

    folder: Path
    version: str
    variant: str
    commit: str
    python: str
    interpreter: str
    installed_at: str

    @property
    def name(self) -> str:
        """The hash of its content."""
        return self.folder.name

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"{self.version} ({self.variant}, {self.name})"


def read_program(folder: Path) -> InstalledProgram | None:
    """Return the program in a folder; None if there is none, or it is incomplete."""
    try:
        about = json.loads((folder / program_build.MARK).read_text(encoding="utf-8"))
        return InstalledProgram(folder=folder.resolve(), **about)
    except (OSError, ValueError, TypeError):
        return None


class InstalledPrograms:
    """All programs below /opt/edge-agent."""

    def __init__(self, paths: InstallPaths) -> None:
        """Take the paths of an installation."""
        self._paths = paths

    @property
    def current(self) -> InstalledProgram | None:
        """The program in use."""
        return read_program(self._paths.current)

    @property
    def previous(self) -> InstalledProgram | None:
        """The previous program; None if there is none, or its Python is gone."""
        before = read_program(self._paths.previous)
        current = self.current
        if before is None or (current and before.name == current.name):
            return None
        return before if has_its_python(before) else None

    def find(self, payload: Payload, machine: TargetMachine) -> tuple[Path, InstalledProgram | None]:
        """Return the folder of a payload's program, and the program if it is there and undamaged.

        A damaged program that a link points to is not replaced: the new one gets the same name with a number.
        """
        identity = payload.identity(machine.python, machine.interpreter)
        linked = {_name(self.current), _name(self.previous)}
        for number in itertools.count(1):
            folder = self._paths.programs / (identity if number == 1 else f"{identity}-{number}")
            program = read_program(folder)
            if program and not integrity.damaged_files(folder):
                return folder, program
            if folder.name not in linked:
                return folder, None
        raise AssertionError

    def activate(self, program: InstalledProgram) -> None:
        """Make a program the current one. The link `previous` moves first: a kill in between leaves the old program.

        A damaged program never becomes the previous one: the link `previous` then stays as it is.
        """
        current = self.current
        if current and current.name == program.name:
            return
        if not self._paths.current.is_symlink():
            durable_files.write(self._paths.first_start, b"")
        if _is_whole(current):
            durable_files.link(self._paths.previous, Path("venvs") / _name(current))
        durable_files.link(self._paths.current, Path("venvs") / program.name)
        if self.previous is None:  # the link is broken, or points to the current program
            durable_files.remove(self._paths.previous)

    def go_back(self) -> InstalledProgram:
        """Make the one before the program, and the program the one before unless it is damaged.

        Raises SetupError when there is none.
        """
        before = self.previous
        if before is None:
            message = "there is no earlier program to go back to"
            raise SetupError(MACHINE, message, "Run the installer file of the version that you want.")
        current = self.current
        durable_files.link(self._paths.current, Path("venvs") / before.name)
        if _is_whole(current):
            durable_files.link(self._paths.previous, Path("venvs") / _name(current))
        else:
            durable_files.remove(self._paths.previous)
        return before

    def prune(self) -> list[str]:
        """Remove programs that are neither current nor previous nor running; return their names."""
        kept = {_name(self.current), _name(self.previous)} | running(self._paths.programs)
        removed = sorted(self._names() - kept)
        for name in removed:
            remove_program(self._paths.programs / name)
        return removed

    def _names(self) -> set[str]:
        return {folder.name for folder in self._paths.programs.glob("*")}


def has_its_python(program: InstalledProgram) -> bool:
    """Return whether the program's Python still exists: an upgrade of the system can replace it."""
    command = [
        str(program.folder / "bin/python"),
        "-I",
        "-S",
        "-c",
        "import sys; print('%d.%d' % sys.version_info[:2])",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    except OSError:
        return False
    return done.stdout.strip() == program.python


def _is_whole(program: InstalledProgram | None) -> bool:
    """Return whether a program exists, can run, and has no damaged file."""
    return program is not None and has_its_python(program) and not integrity.damaged_files(program.folder)


def _name(program: InstalledProgram | None) -> str:
    return program.name if program else ""


def remove_program(folder: Path) -> None:
    """Remove a program; after a kill the rest no longer counts as one."""
    (folder / program_build.MARK).unlink(missing_ok=True)
    durable_files.remove(folder)


def running(programs: Path) -> set[str]:
    """Return the names of the programs of running processes."""
    return {program_of(programs, int(path.name)) for path in Path("/proc").glob("[0-9]*")} - {""}


def program_of(programs: Path, pid: int) -> str:
    """Return the name of the program of a process; empty = none of these, or the process has ended."""
    command = _command(Path(f"/proc/{pid}/cmdline"))
    return command.relative_to(programs).parts[0] if programs in command.parents else ""


def _command(cmdline: Path) -> Path:
    try:
        return Path(cmdline.read_bytes().split(b"\0")[0].decode(errors="replace"))
    except OSError:  # the process has ended
        return Path()
