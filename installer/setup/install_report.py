"""The report of `status`: program, damaged files, the processor code of llama.cpp, states of the units."""

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

FILES_NAMED_MAX = 3


@dataclass(frozen=True)
class InstallReport:
    """The state of an installation at one time."""

    program: InstalledProgram
    previous: InstalledProgram | None
    cpu_variant: str
    """The kind of processor for which llama.cpp loads code here."""
    units: dict[str, str]
    kept_bytes: dict[str, int | None]
    """None = this user may not read the path."""
    damaged: list[Path]


def read_report(
    paths: InstallPaths, services: Services, previous: InstalledProgram | None, program: InstalledProgram
) -> InstallReport:
    """Return the state of an installation; reads each file of the program."""
    units = installed_files.unit_names(program) if services.running else []
    return InstallReport(
        program=program,
        previous=previous,
        cpu_variant=_processor_code(program),
        units={name: ", ".join(services.state(name)) for name in units},
        kept_bytes={str(path): _size(path) for path in paths.kept},
        damaged=integrity.damaged_files(program.folder),
    )


def as_json(report: InstallReport) -> str:
    """Return the report as JSON."""
    return json.dumps(asdict(report), indent=2, default=str)


def as_text(report: InstallReport) -> str:
    """Return the report as text."""
    rows = {
        "program": f"{report.program.title}, installed {report.program.installed_at}",
        "previous": report.previous.title if report.previous else "none",
        "Python": f"{report.program.python}, {report.program.interpreter}",
        "processor": f"llama.cpp uses the code for {report.cpu_variant}",
        **report.units,
        "kept": "\n".join(f"{path} ({_size_text(count)})" for path, count in report.kept_bytes.items()),
        "damaged": _shorten([str(path.relative_to(report.program.folder)) for path in report.damaged]) or "nothing",
    }
    width = max(map(len, rows)) + 2
    return "\n".join(f"{name:<{width}}{text}".replace("\n", "\n" + width * " ") for name, text in rows.items())


def _size(path: Path) -> int | None:
    try:
        return durable_files.size_of(path)
    except PermissionError:
        return None


def _size_text(count: int | None) -> str:
    return "size unknown without sudo" if count is None else size(count)


def _shorten(names: list[str]) -> str:
    """Return the first names, and the number of the others."""
    more = [f"and {len(names) - FILES_NAMED_MAX} more"] if len(names) > FILES_NAMED_MAX else []
    return ", ".join(names[:FILES_NAMED_MAX] + more)


def _processor_code(program: InstalledProgram) -> str:
    command = [str(program.folder / "bin/python"), "-I", "-m", "edge_agent.engine.runtimes.llama.llama_backends"]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()  # noqa: S603 - ours
    except (OSError, subprocess.CalledProcessError):
        return "unknown, the program does not run"
