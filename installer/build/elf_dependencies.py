"""What a library asks for: other libraries, where it looks for them, and a version of the C library."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")
_RUNPATH = re.compile(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]")
_GLIBC = re.compile(r"Name: GLIBC_(\d+(?:\.\d+)+)")


@dataclass(frozen=True)
class ElfDependencies:
    """The needs of one library."""

    needed: tuple[str, ...]
    glibc: tuple[int, ...]
    """The oldest version that has all it uses."""
    folders: tuple[str, ...] = ()
    """Where it looks for libraries, beside the system's places."""


def read_dependencies(path: Path) -> ElfDependencies:
    """Read a library with readelf."""
    command = ["readelf", "--wide", "--dynamic", "--version-info", str(path)]
    return parse_dependencies(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603


def parse_dependencies(text: str) -> ElfDependencies:
    """Read what readelf printed."""
    versions = [tuple(int(part) for part in found.split(".")) for found in _GLIBC.findall(text)]
    folders = tuple(folder for found in _RUNPATH.findall(text) for folder in found.split(":") if folder)
    return ElfDependencies(tuple(_NEEDED.findall(text)), max(versions, default=(2, 0)), folders)
