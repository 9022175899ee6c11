"""What `status` tells: which program, whether it is undamaged, which processor's code, what systemd says."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from installer.setup import durable_files, installed_files, integrity
from installer.setup.install_paths import InstallPaths
from installer.setup.programs import InstalledProgram
from installer.setup.screen import size
from installer.setup.services import Services

NAMED = 3


@dataclass(frozen=True)
class InstallReport:
    """One look at an installation."""

    program: InstalledProgram
    previous: InstalledProgram | None
    cpu_variant: str
    """The kind of processor whose code llama.cpp takes here."""
    units: dict[str, str]
    kept_bytes: dict[str, int | None]
    """None = this user may not read it."""
    damaged: list[Path]


def look(
    places: InstallPaths, services: Services, previous: InstalledProgram | None, program: InstalledProgram
) -> InstallReport:
    """Look at everything; reads each file of the program."""
    units = installed_files.unit_names(program) if services.running else []
    return InstallReport(
        program=program,
        previous=previous,
        cpu_variant=_processor_code(program),
        units={name: ", ".join(services.state(name)) for name in units},
        kept_bytes={str(path): _size(path) for path in places.kept},
        damaged=integrity.damaged_files(program.folder),
    )


def as_json(found: InstallReport) -> str:
    """Write it for programs."""
    return json.dumps(asdict(found), indent=2, default=str)


def as_text(found: InstallReport) -> str:
    """Write it for people."""
    rows = {
        "program": f"{found.program.title}, installed {found.program.installed_at}",
        "before it": found.previous.title if found.previous else "none",
        "Python": f"{found.program.python}, {found.program.interpreter}",
        "processor": f"llama.cpp computes with code for: {found.cpu_variant}",
        **found.units,
        "kept": "\n".join(f"{path} ({_shown(count)})" for path, count in found.kept_bytes.items()),
        "damaged": _some([str(path.relative_to(found.program.folder)) for path in found.damaged]) or "nothing",
    }
    width = max(map(len, rows)) + 2
    return "\n".join(f"{name:<{width}}{text}".replace("\n", "\n" + width * " ") for name, text in rows.items())


def _size(path: Path) -> int | None:
    try:
        return durable_files.size_of(path)
    except PermissionError:
        return None


def _shown(count: int | None) -> str:
    return "size unknown without sudo" if count is None else size(count)


def _some(names: list[str]) -> str:
    """Write the first names, and how many more there are."""
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join(names[:NAMED] + more)


def _processor_code(program: InstalledProgram) -> str:
    command = [str(program.folder / "bin/python"), "-I", "-m", "edge_agent.engine.runtimes.llama.llama_backends"]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()  # noqa: S603 - ours
    except (OSError, subprocess.CalledProcessError):
        return "unknown, the program does not run"
