"""What lies outside of the program's folder: units, users, folders, man pages, the commands' links, the configuration.

It is laid after the program was switched, from the program's own share/ folder, and the same again whenever setup runs:
what a kill left out is made up for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from installer.setup import disk
from installer.setup.places import Places
from installer.setup.programs import Program

KINDS = ("systemd", "sysusers", "tmpfiles", "etc", "man")


def lay(places: Places, program: Program, before: Program | None) -> list[Path]:
    """Lay a program's files, remove those that only the one before had; return the edited files that were put aside."""
    known = dict(_files(places, before)) if before else {}
    wanted = dict(_files(places, program))
    aside = [path for path, source in wanted.items() if _edited(path, {source, known.get(path, source)})]
    for path in aside:
        path.replace(path.with_name(f"{path.name}.edited"))
    for path, source in wanted.items():
        disk.write(path, source.read_bytes())
    for path in known.keys() - wanted.keys():
        disk.remove(path)
    for path, target in places.commands.items():
        disk.link(path, target)
    return aside


def lay_configuration(places: Places, program: Program) -> bool:
    """Lay the sample configuration where there is none yet; tell whether it was laid."""
    path = places.config / "agent.yaml"
    if path.exists():
        return False
    disk.write(path, (program.folder / "share/agent.yaml").read_bytes())
    return True


def take_up(places: Places, program: Program) -> None:
    """Remove what `lay` laid."""
    for path in [*places.commands, *dict(_files(places, program))]:
        disk.remove(path)


def unit_names(program: Program) -> list[str]:
    """Return the names of a program's units."""
    return sorted(path.name for path in (program.folder / "share/systemd").glob("*.*") if path.is_file())


def _edited(path: Path, laid: set[Path]) -> bool:
    """Tell whether a file is there and none of those that setup lays there."""
    return path.exists() and path.read_bytes() not in {source.read_bytes() for source in laid}


def _files(places: Places, program: Program) -> Iterator[tuple[Path, Path]]:
    for kind in KINDS:
        folder = program.folder / "share" / kind
        for source in sorted(path for path in folder.rglob("*") if path.is_file()):
            yield places.laid(kind, str(source.relative_to(folder))), source
