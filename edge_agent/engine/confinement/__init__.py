"""A child gives up what it does not need before it reads a file that somebody else made.

A model file that takes the process over then finds no socket, no program to start, no other process, no file but the
blobs and the runtime's own code, and memory up to a limit. It holds for root too. Each measure works without the others
and explains why where it does not hold; `seccomp.py` and `landlock.py` say what each leaves, and
what a child has beside that which drives a device.

What stays: the pipe to the parent and standard error. What is no measure here: processor time (the heartbeat), the
number of threads (the unit's TasksMax, and each one's stack counts as memory), writing to a file that is already open
(RLIMIT_FSIZE would silence a standard error that goes to a file).
"""

from __future__ import annotations

import mmap
import os
import resource
import site
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import edge_agent
from edge_agent.engine.confinement import landlock, linux_calls, seccomp

DESCRIPTORS_MAX = 256
PACKAGE_FOLDERS = ("site-packages", "dist-packages")

# What the C library and the runtimes read when they run: libraries loaded late, the number and kind of processors.
SYSTEM_PATHS = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/proc/self",
    "/proc/cpuinfo",
    "/sys/devices/system/cpu",
    "/dev/null",
    "/dev/urandom",
)


@dataclass(frozen=True)
class Confinement:
    """Each measure: "on", or why it is not."""

    seccomp: str
    landlock: str
    memory: str


def confine(readable: Sequence[Path], memory_bytes_max: int, device: str = "cpu") -> Confinement:
    """Confine this process for the rest of its life.

    Call it once: after the modules of the runtime are imported, before a model file is opened, and before any thread is
    started, for Landlock does not reach threads that run already.

    Args:
        readable: what may be read, with all below it; has to be there already.
        memory_bytes_max: private writable memory in bytes, touched or not (VmData of proc(5)): the heap, the stack of
            each thread and what the imports took, but not the mapped weights. 0 = no limit.
        device: what the process will drive; see landlock.py.

    Raises:
        OSError: a path of `readable` is not there, or out of reach; nothing was done.
    """
    for path in readable:
        path.stat()
    linux_calls.prctl(linux_calls.PR_SET_NO_NEW_PRIVS, 1)
    # No core dump, which would hold prompts. The limit alone does not keep a core from a program named in core_pattern.
    linux_calls.prctl(linux_calls.PR_SET_DUMPABLE, 0)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, DESCRIPTORS_MAX)
    memory = _limit_memory(memory_bytes_max)
    paths = [*readable, *_runtime_paths()]
    driver = landlock.DRIVERS.get(device)
    if driver is None:
        landlocked, filtered = landlock.restrict(paths), seccomp.install()  # the filter ends setting limits
    else:
        landlocked = landlock.restrict([*paths, *map(Path, driver.readable)], landlock.device_nodes(driver))
        filtered = seccomp.install(driver.families, driver.calls)
    return Confinement(seccomp=filtered, landlock=landlocked, memory=memory)


def _runtime_paths() -> list[Path]:
    """Return where Python and the runtimes may still load from. Not all of sys.path: it holds the working directory."""
    code = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *site.getsitepackages()]
    # A virtual environment may stand on the packages of another, by a .pth file or PYTHONPATH.
    borrowed = [path for path in map(Path, sys.path) if path.name in PACKAGE_FOLDERS]
    # Where another build of llama.cpp lies: its code for a device is opened later.
    other = [Path(folder) for folder in [os.environ.get("LLAMA_CPP_LIB_PATH")] if folder]
    return [*map(Path, (*code, *SYSTEM_PATHS)), *borrowed, *other, Path(edge_agent.__file__).parent]


def _limit_memory(bytes_max: int) -> str:
    """Set RLIMIT_DATA: unlike RLIMIT_AS it leaves out files that are mapped to be read."""
    if bytes_max <= 0:
        return "no limit is set"
    try:
        _lower(resource.RLIMIT_DATA, bytes_max)
    except (OSError, ValueError) as error:
        return f"the kernel refuses a limit of {bytes_max} bytes: {error}"
    # A kernel can be told to ignore this limit, and some containers do: one that holds refuses this at once.
    try:
        mmap.mmap(-1, bytes_max, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, OverflowError):
        return "on"
    return "the kernel does not enforce RLIMIT_DATA"


def _lower(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))
