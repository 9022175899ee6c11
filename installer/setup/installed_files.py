"""Files outside of the program's folder: units, users, folders, man pages, the commands' links, the configuration.

They are copied from the program's share/ folder after the switch to the program, and again whenever setup runs: this
repairs what a kill left incomplete.
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
class InstalledFiles:
    """The result of `install_files`."""

    edited: list[Path]
    """Files that somebody had edited; each was moved to its `edited_path`."""
    changed: bool
    """A file was added, replaced or removed."""


def install_files(paths: InstallPaths, program: InstalledProgram, before: InstalledProgram | None) -> InstalledFiles:
    """Install a program's files, move edited ones away, and remove those that only the previous program had.

    An unchanged file is not written, because systemd takes a newer unit file for a changed one.
    """
    old_files = dict(_files(paths, before.folder)) if before else {}
    new_files = dict(_files(paths, program.folder))
    edited = [path for path, source in new_files.items() if _is_edited(path, {source, old_files.get(path, source)})]
    for path in edited:
        path.replace(edited_path(path))
    outdated = {path: source for path, source in new_files.items() if not _is_installed(path, source)}
    obsolete = [path for path in old_files.keys() - new_files.keys() if path.exists()]
    _write_and_remove(paths, outdated, obsolete)
    return InstalledFiles(edited, changed=bool(outdated or obsolete))


def _write_and_remove(paths: InstallPaths, outdated: dict[Path, Path], obsolete: list[Path]) -> None:
    for path, source in outdated.items():
        durable_files.write(path, source.read_bytes())
    for path in obsolete:
        durable_files.remove(path)
    for path, target in paths.commands.items():
        durable_files.link(path, target)


def install_configuration(paths: InstallPaths, program: InstalledProgram) -> bool:
    """Install the sample configuration if there is no agent.yaml; return whether it was installed."""
    path = paths.config / "agent.yaml"
    if path.exists():
        return False
    durable_files.write(path, (program.folder / "share/agent.yaml").read_bytes())
    return True


def remove_files(paths: InstallPaths) -> None:
    """Remove the files of all programs, even damaged ones, and the units in any case."""
    installed = {path for folder in paths.programs.glob("*") for path, _ in _files(paths, folder)}
    for path in {*paths.commands, *paths.in_every_program, *installed}:
        durable_files.remove(path)
        durable_files.remove(durable_files.partial_path(path))


def unit_names(program: InstalledProgram) -> list[str]:
    """Return the names of a program's units."""
    return sorted(path.name for path in (program.folder / "share/systemd").glob("*.*") if path.is_file())


def _is_edited(path: Path, sources: set[Path]) -> bool:
    """Return whether a file exists and differs from all files that setup installs at its path."""
    return path.exists() and path.read_bytes() not in {source.read_bytes() for source in sources}


def _is_installed(path: Path, source: Path) -> bool:
    """Return whether a path is a regular file with the content of `source` and the mode that setup gives it."""
    if path.is_symlink() or not path.is_file():
        return False
    return path.read_bytes() == source.read_bytes() and path.stat().st_mode & 0o777 == durable_files.MODE


def _files(paths: InstallPaths, program: Path) -> Iterator[tuple[Path, Path]]:
    """Yield path on the machine and source of each file, but not the dependencies' manuals in folders of share/man."""
    for kind in KINDS:
        folder = program / "share" / kind
        found = folder.glob("*") if kind == "man" else folder.rglob("*")
        for source in sorted(path for path in found if path.is_file()):
            yield paths.installed_path(kind, str(source.relative_to(folder))), source
