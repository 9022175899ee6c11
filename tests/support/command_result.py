"""The cost of a command: its processor time and its peak resident memory.

The kernel counts what a parent had when it started a process as that process's own, so a small one starts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

STARTER = """
import os, sys
_, status, usage = os.wait4(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 0)
figures = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
os.write(int(sys.argv[1]), " ".join(map(str, figures)).encode())
"""


@dataclass(frozen=True)
class CommandResult:
    """A command that has ended."""

    code: int
    output: str
    processor_seconds: float
    resident_bytes: int


def measured(command: Sequence[str]) -> CommandResult:
    """Run a command, whose first word is a path; its errors go where ours go."""
    reading, writing = os.pipe()
    try:
        starter = [sys.executable, "-I", "-S", "-c", STARTER, str(writing)]
        done = subprocess.run([*starter, *command], pass_fds=(writing,), stdout=subprocess.PIPE, text=True, check=True)
        code, seconds, resident = os.read(reading, 1000).decode().split()
    finally:
        os.close(reading)
        os.close(writing)
    return CommandResult(int(code), done.stdout, float(seconds), int(resident))
