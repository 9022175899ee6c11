"""Looks at what is installed, without loading it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

from edge_agent.doctor.probes.serving import Case
from edge_agent.doctor.program import Link, ProgramFacts

PACKAGES = ("llama_cpp_python", "onnxruntime", "tokenizers", "grpcio")
FOLDER = "/opt/edge-agent"
COMMAND = "usr/local/bin/edge-agent"


def program(case: Case) -> ProgramFacts:
    """Look at packages and links."""
    folder = case.place.at(FOLDER)
    return ProgramFacts(
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
        prefix=sys.prefix,
        folder=FOLDER,
        installed=(folder / "venvs").is_dir(),
        current=_link(folder / "current", "bin/edge-agent"),
        previous=_link(folder / "previous", "bin/edge-agent"),
        command=_link(case.place.at(COMMAND)),
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _link(path: Path, inside: str = "") -> Link:
    if not path.is_symlink():
        return Link(str(path), os.access(path, os.X_OK)) if path.is_file() else Link()
    program = path / inside if inside else path
    return Link(str(path.readlink()), program.is_file() and os.access(program, os.X_OK))
