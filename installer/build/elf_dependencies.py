"""The dependencies of a library: other libraries, its search folders, and a version of glibc."""

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
    """The dependencies of one library."""

    needed: tuple[str, ...]
    glibc: tuple[int, ...]
    """The oldest version that has all symbols that the library uses."""
    folders: tuple[str, ...] = ()
    """Folders in which it looks for libraries, in addition to the system's."""


def read_dependencies(path: Path) -> ElfDependencies:
    """Read a library with readelf."""
    command = ["readelf", "--wide", "--dynamic", "--version-info", str(path)]
    return parse_dependencies(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603


def parse_dependencies(text: str) -> ElfDependencies:
    """Parse the output of readelf."""
    versions = [tuple(int(part) for part in found.split(".")) for found in _GLIBC.findall(text)]
    folders = tuple(folder for found in _RUNPATH.findall(text) for folder in found.split(":") if folder)
    return ElfDependencies(tuple(_NEEDED.findall(text)), max(versions, default=(2, 0)), folders)
