"""Whether this machine can take a program: asked before anything is written."""

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

# What pip compiles and what the links and units take come on top of the wheels' own size.
SLACK_BYTES = 64 << 20


@dataclass(frozen=True)
class TargetMachine:
    """What matters of this machine."""

    architecture: str
    glibc: tuple[int, ...]
    python: str
    """Such as "3.13"."""
    interpreter: Path
    """The Python that the program's environment will stand on; not one inside an environment."""
    user: int


def this_machine() -> TargetMachine:
    """Look at the machine and at the Python that runs this."""
    base = Path(getattr(sys, "_base_executable", "") or sys.executable)
    return TargetMachine(
        architecture=platform.machine(),
        glibc=glibc_version(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        interpreter=base,
        user=os.geteuid(),
    )


def glibc_version() -> tuple[int, ...]:
    """Return the version of the C library; (0,) where it is another one."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return (0,)
    return tuple(int(part) for part in version.split(".")) if name == "glibc" else (0,)


def check(machine: TargetMachine, payload: Payload, free_bytes: int) -> None:
    """Raise SetupError, with the numbers, unless the program can be installed and will run."""
    needed = payload.manifest["machine"]
    if machine.architecture != needed:
        said = f"this installer is for {needed}, this machine is {machine.architecture}"
        raise SetupError(MACHINE, said, f"Fetch the installer for {machine.architecture}.")
    if machine.glibc < payload.glibc:
        said = f"this installer needs glibc {dotted(payload.glibc)} or newer; this machine has {dotted(machine.glibc)}"
        raise SetupError(MACHINE, said, "Use Debian 12 or newer, or Ubuntu 24.04 or newer.")
    payload.lock(machine.python)
    wanted = payload.installed_bytes(machine.python) + SLACK_BYTES
    if free_bytes < wanted:
        said = f"the program takes {wanted >> 20} MB; {free_bytes >> 20} MB are free below /opt"
        raise SetupError(MACHINE, said, "Free some space and run the same command again.")


def check_shared(interpreter: Path) -> None:
    """Raise SetupError when only root reaches the Python: the service runs as a user of its own."""
    real = interpreter.resolve()
    closed = [path for path in (real, *real.parents) if not path.stat().st_mode & stat.S_IXOTH]
    if closed:
        said = f"Python {real} cannot be run by the service's user: {closed[-1]} is closed to others"
        raise SetupError(
            MACHINE, said, "Install the system's own Python, or name another one: PYTHON=/path sh FILE.run"
        )


def check_root(machine: TargetMachine) -> None:
    """Raise SetupError unless this is root."""
    if machine.user != 0:
        said = "installing into the system takes root"
        raise SetupError(
            MACHINE, said, "Run it with sudo; '--root DIR' installs below a folder of your own, to try it."
        )


def free_below(folder: Path) -> int:
    """Return the free bytes on the disk where a folder is or will be."""
    folder = folder.absolute()
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def dotted(version: tuple[int, ...]) -> str:
    """Write a version."""
    return ".".join(map(str, version))
