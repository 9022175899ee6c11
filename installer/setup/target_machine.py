"""Checks whether a program can be installed on this machine, before anything is written."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from installer.setup.errors import MACHINE, SetupError
from installer.setup.payload import Payload

# For files that pip compiles, and for links and units: in addition to the size of the wheels.
SLACK_BYTES = 64 << 20


@dataclass(frozen=True)
class TargetMachine:
    """The properties of this machine that setup checks."""

    architecture: str
    glibc: tuple[int, ...]
    python: str
    """For example "3.13"."""
    interpreter: Path
    """The Python of which the program's environment is made; not one inside an environment."""
    user: int


def this_machine() -> TargetMachine:
    """Return the properties of this machine and of the running Python."""
    base = Path(getattr(sys, "_base_executable", "") or sys.executable)
    return TargetMachine(
        architecture=platform.machine(),
        glibc=glibc_version(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        interpreter=base,
        user=os.geteuid(),
    )


def glibc_version() -> tuple[int, ...]:
    """Return the version of the C library; (0,) if it is not glibc."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return (0,)
    return tuple(int(part) for part in version.split(".")) if name == "glibc" else (0,)


def check(machine: TargetMachine, payload: Payload, free_bytes: int) -> None:
    """Raise SetupError, with the numbers, unless the program can be installed and will run."""
    needed = payload.manifest["machine"]
    if machine.architecture != needed:
        message = f"this installer is for {needed}, this machine is {machine.architecture}"
        raise SetupError(MACHINE, message, f"Fetch the installer for {machine.architecture}.")
    if machine.glibc < payload.glibc:
        needed_glibc = dotted(payload.glibc)
        message = f"this installer needs glibc {needed_glibc} or newer; this machine has {dotted(machine.glibc)}"
        raise SetupError(MACHINE, message, "Use Debian 12 or newer, or Ubuntu 24.04 or newer.")
    payload.lock(machine.python)
    needed_bytes = payload.installed_bytes(machine.python) + SLACK_BYTES
    if free_bytes < needed_bytes:
        message = f"the program needs {needed_bytes >> 20} MB; {free_bytes >> 20} MB are free below /opt"
        raise SetupError(MACHINE, message, "Free some space and run the same command again.")


def check_shared(interpreter: Path) -> None:
    """Raise SetupError if only root can run the Python: the service runs as another user."""
    real = interpreter.resolve()
    closed = [path for path in (real, *real.parents) if not path.stat().st_mode & stat.S_IXOTH]
    if closed:
        message = f"Python {real} cannot be run by the service's user: {closed[-1]} is closed to others"
        raise SetupError(
            MACHINE, message, "Install the system's own Python, or name another one: PYTHON=/path sh FILE.run"
        )


def check_root(machine: TargetMachine) -> None:
    """Raise SetupError unless this is root."""
    if machine.user != 0:
        message = "an installation into the system needs root"
        raise SetupError(
            MACHINE, message, "Run this with sudo; for a trial, '--root DIR' installs below a folder of yours."
        )


def free_below(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    folder = folder.absolute()
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def dotted(version: tuple[int, ...]) -> str:
    """Format a version."""
    return ".".join(map(str, version))
