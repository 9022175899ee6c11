"""The programs on this machine, and which one is the program: derived from the links, remembered nowhere else."""

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
    """One folder that is whole."""

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
        """What a person calls it."""
        return f"{self.version} ({self.variant}, {self.name})"


def read_program(folder: Path) -> InstalledProgram | None:
    """Return the program in a folder; None when it is not there, or not whole."""
    try:
        about = json.loads((folder / program_build.MARK).read_text(encoding="utf-8"))
        return InstalledProgram(folder=folder.resolve(), **about)
    except (OSError, ValueError, TypeError):
        return None


class InstalledPrograms:
    """All programs below /opt/edge-agent."""

    def __init__(self, places: InstallPaths) -> None:
        """Look there."""
        self._places = places

    @property
    def current(self) -> InstalledProgram | None:
        """The program."""
        return read_program(self._places.current)

    @property
    def previous(self) -> InstalledProgram | None:
        """The one before; None when there is none to go back to, or its Python is gone."""
        before = read_program(self._places.previous)
        current = self.current
        if before is None or (current and before.name == current.name):
            return None
        return before if has_its_python(before) else None

    def find(self, payload: Payload, machine: TargetMachine) -> tuple[Path, InstalledProgram | None]:
        """Return where a payload's program belongs, and the program if it is there and undamaged.

        A damaged one that a link leads to stays as it is, and the new one gets a number behind its name.
        """
        identity = payload.identity(machine.python, machine.interpreter)
        linked = {_name(self.current), _name(self.previous)}
        for number in itertools.count(1):
            folder = self._places.programs / (identity if number == 1 else f"{identity}-{number}")
            program = read_program(folder)
            if program and not integrity.damaged_files(folder):
                return folder, program
            if folder.name not in linked:
                return folder, None
        raise AssertionError

    def activate(self, program: InstalledProgram) -> None:
        """Make a program the program. First the way back is noted: a kill in between leaves the old one.

        A damaged program is no way back: the one before it stays the previous one.
        """
        current = self.current
        if current and current.name == program.name:
            return
        if not self._places.current.is_symlink():
            durable_files.write(self._places.first_start, b"")
        if _is_whole(current):
            durable_files.link(self._places.previous, Path("venvs") / _name(current))
        durable_files.link(self._places.current, Path("venvs") / program.name)
        if self.previous is None:  # the link leads nowhere, or to the program itself
            durable_files.remove(self._places.previous)

    def go_back(self) -> InstalledProgram:
        """Make the one before the program, and the program the one before unless it is damaged.

        Raises SetupError when there is none.
        """
        before = self.previous
        if before is None:
            said = "there is no earlier program to go back to"
            raise SetupError(MACHINE, said, "Run the installer file of the version that you want.")
        current = self.current
        durable_files.link(self._places.current, Path("venvs") / before.name)
        if _is_whole(current):
            durable_files.link(self._places.previous, Path("venvs") / _name(current))
        else:
            durable_files.remove(self._places.previous)
        return before

    def prune(self) -> list[str]:
        """Remove what is neither the program nor the one before, nor runs; return the names."""
        gone = self._names() - {_name(self.current), _name(self.previous)} - running(self._places.programs)
        for name in gone:
            drop(self._places.programs / name)
        return sorted(gone)

    def _names(self) -> set[str]:
        return {folder.name for folder in self._places.programs.glob("*")}


def has_its_python(program: InstalledProgram) -> bool:
    """Tell whether the Python that a program was made for is still there: an upgrade of the system replaces it."""
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
    """Tell whether there is a program that can run, and every file of it is what was installed."""
    return program is not None and has_its_python(program) and not integrity.damaged_files(program.folder)


def _name(program: InstalledProgram | None) -> str:
    return program.name if program else ""


def drop(folder: Path) -> None:
    """Remove a program; what is left after a kill is not whole any more."""
    (folder / program_build.MARK).unlink(missing_ok=True)
    durable_files.remove(folder)


def running(programs: Path) -> set[str]:
    """Return the names of the programs that processes were started from."""
    return {program_of(programs, int(path.name)) for path in Path("/proc").glob("[0-9]*")} - {""}


def program_of(programs: Path, pid: int) -> str:
    """Return the name of the program that a process was started from; empty = none of these, or it ended."""
    command = _command(Path(f"/proc/{pid}/cmdline"))
    return command.relative_to(programs).parts[0] if programs in command.parents else ""


def _command(cmdline: Path) -> Path:
    try:
        return Path(cmdline.read_bytes().split(b"\0")[0].decode(errors="replace"))
    except OSError:  # it ended meanwhile
        return Path()
