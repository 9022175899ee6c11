"""Environments in addition to .venv, made on demand and remade if their packages or the Python change.

    python = interpreter("triton")        # .cache/environments/triton-…/bin/python: another server's client
    python = agent_interpreter()          # the same of what the agent needs, and nothing for tests
    python -m tests.support.environments triton   # makes them, for scripts/setup

Programs that others wrote have their own, since their dependencies differ from ours: tests/support/clients/NAME.txt.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "environments"
WHEELS = ROOT / ".cache" / "wheels"
CLIENTS = ROOT / "tests" / "support" / "clients"
"""What goes into each, and the scripts that run there."""
STAMP = "complete"
WITHOUT_DEPENDENCIES = "# without-dependencies"
"""A line of a list of packages, of which then only the files are used."""


def interpreter(name: str) -> Path:
    """Return the Python of an environment; makes it first where it is not there, or was not finished."""
    return _interpreter(name, (CLIENTS / f"{name}.txt").read_text(encoding="utf-8"))


def agent_interpreter() -> Path:
    """Return the Python of an environment in which this checkout runs with its own dependencies alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = _interpreter("agent", "\n".join(project["dependencies"]) + "\n")
    [packages] = python.parent.parent.glob("lib/python*/site-packages")
    (packages / "checkout.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    return python


def _interpreter(name: str, wanted: str) -> Path:
    content = hashlib.sha256(wanted.encode() + sys.version.encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{content}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / STAMP).exists():
            _make(folder, wanted)
            for older in set(CACHE.glob(f"{name}-*")) - {folder}:
                shutil.rmtree(older)
    return folder / "bin" / "python"


def _make(folder: Path, wanted: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    requirements = folder / "requirements.txt"
    requirements.write_text(wanted, encoding="utf-8")
    options = ["--quiet", "--disable-pip-version-check", "--no-compile", "--find-links", str(WHEELS)]
    options += ["--no-deps"] if WITHOUT_DEPENDENCIES in wanted else []
    subprocess.run([folder / "bin" / "pip", "install", *options, "--requirement", requirements], check=True)
    (folder / STAMP).touch()


if __name__ == "__main__":
    for each in sys.argv[1:]:
        interpreter(each)
