"""What lies outside of the program's folder: units, users, folders, man pages, the commands' links, the configuration.

It is laid after the program was switched, from the program's own share/ folder, and the same again whenever setup runs:
what a kill left out is made up for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from installer.setup import durable_files
from installer.setup.install_paths import InstallPaths, edited_path
from installer.setup.programs import InstalledProgram

KINDS = ("systemd", "sysusers", "tmpfiles", "etc", "man")


@dataclass(frozen=True)
class LaidFiles:
    """What `install_files` did."""

    aside: list[Path]
    """The files that somebody had edited; the edited text is beside each."""
    changed: bool
    """Some file was not there, or was another one, or was removed."""


def install_files(places: InstallPaths, program: InstalledProgram, before: InstalledProgram | None) -> LaidFiles:
    """Lay a program's files, put edited ones aside, and remove those that only the program before had.

    A file that is right already is not written: systemd takes a newer unit file for a changed one.
    """
    known = dict(_files(places, before.folder)) if before else {}
    wanted = dict(_files(places, program.folder))
    aside = [path for path, source in wanted.items() if _edited(path, {source, known.get(path, source)})]
    for path in aside:
        path.replace(edited_path(path))
    missing = {path: source for path, source in wanted.items() if not _is_laid(path, source)}
    gone = [path for path in known.keys() - wanted.keys() if path.exists()]
    _lay(places, missing, gone)
    return LaidFiles(aside, changed=bool(missing or gone))


def _lay(places: InstallPaths, missing: dict[Path, Path], gone: list[Path]) -> None:
    for path, source in missing.items():
        durable_files.write(path, source.read_bytes())
    for path in gone:
        durable_files.remove(path)
    for path, target in places.commands.items():
        durable_files.link(path, target)


def install_configuration(places: InstallPaths, program: InstalledProgram) -> bool:
    """Lay the sample configuration where there is none yet; tell whether it was laid."""
    path = places.config / "agent.yaml"
    if path.exists():
        return False
    durable_files.write(path, (program.folder / "share/agent.yaml").read_bytes())
    return True


def remove_files(places: InstallPaths) -> None:
    """Remove what `install_files` laid for the programs that are here, whole or damaged, and units in any case."""
    laid = {path for folder in places.programs.glob("*") for path, _ in _files(places, folder)}
    for path in {*places.commands, *places.always_laid, *laid}:
        durable_files.remove(path)
        durable_files.remove(durable_files.partial_path(path))


def unit_names(program: InstalledProgram) -> list[str]:
    """Return the names of a program's units."""
    return sorted(path.name for path in (program.folder / "share/systemd").glob("*.*") if path.is_file())


def _edited(path: Path, laid: set[Path]) -> bool:
    """Tell whether a file is there and none of those that setup lays there."""
    return path.exists() and path.read_bytes() not in {source.read_bytes() for source in laid}


def _is_laid(path: Path, source: Path) -> bool:
    """Tell whether a file is there as setup lays it: a regular file, with its content and its mode."""
    if path.is_symlink() or not path.is_file():
        return False
    return path.read_bytes() == source.read_bytes() and path.stat().st_mode & 0o777 == durable_files.MODE


def _files(places: InstallPaths, program: Path) -> Iterator[tuple[Path, Path]]:
    """Yield what belongs on the machine; a folder below share/man is a dependency's, whose manual nobody needs here."""
    for kind in KINDS:
        folder = program / "share" / kind
        found = folder.glob("*") if kind == "man" else folder.rglob("*")
        for source in sorted(path for path in found if path.is_file()):
            yield places.laid(kind, str(source.relative_to(folder))), source
