"""Programs that others wrote, each in an environment of its own: their dependencies are theirs, and differ from ours.

    python = interpreter("triton")        # .cache/environments/triton-…/bin/python, made when it is not there
    python -m tests.environments triton   # the same, for scripts/setup

What goes in is in tests/clients/NAME.txt; an environment is made anew when that or the Python changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache" / "environments"
CLIENTS = ROOT / "tests" / "clients"
"""What goes into each, and the scripts that run there."""
STAMP = "complete"


def interpreter(name: str) -> Path:
    """Return the Python of an environment; makes it first where it is not there, or was not finished."""
    wanted = CLIENTS / f"{name}.txt"
    content = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{content}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / STAMP).exists():
            _make(folder, wanted)
            for older in set(CACHE.glob(f"{name}-*")) - {folder}:
                shutil.rmtree(older)
    return folder / "bin" / "python"


def _make(folder: Path, wanted: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    quietly = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([folder / "bin" / "pip", "install", *quietly, "--requirement", wanted], check=True)
    (folder / STAMP).touch()


if __name__ == "__main__":
    for each in sys.argv[1:]:
        interpreter(each)
