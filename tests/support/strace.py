"""Killing a process, or failing its disk, at one system call: strace stops or answers the N-th call of a kind.

strace acts before the kernel runs the call (`inject=CALL:signal=KILL:when=N`, `error=EIO`).
"""

from __future__ import annotations

import functools
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

SEED = 2
QUICK_POINTS = 12
WRITING = ("write", "pwrite64", "fsync", "fdatasync")
CALLS = (*WRITING, "rename", "unlink", "mkdir", "ftruncate", "fchmod", "fallocate")
Point = tuple[str, int]


@functools.cache
def strace_works() -> bool:
    """Return whether strace is installed and may trace."""
    if not shutil.which("strace"):
        return False
    probe = [*strace("trace=fsync"), sys.executable, "-c", ""]
    return 0 == subprocess.run(probe, capture_output=True, check=False).returncode


def strace(*expressions: str) -> list[str]:
    """Return the start of a command."""
    return ["strace", "-f", "-qq", *(part for each in expressions for part in ("-e", each))]


def killed_at(call: str, number: int) -> list[str]:
    """Return the strace command that kills at one point."""
    return [*strace(f"trace={call}", f"inject={call}:signal=KILL:when={number}"), "-o", "/dev/null"]


def failed_at(call: str, number: int, error: str) -> list[str]:
    """Return the strace command that lets one call fail."""
    # --seccomp-bpf spares time, but with it strace 6.13 loses injected signals.
    traced = strace(f"trace={call}", f"inject={call}:error={error}:when={number}")
    return [*traced, "--seccomp-bpf", "-o", "/dev/null"]


def points(run: Callable[..., subprocess.CompletedProcess[str]], log: Path) -> list[Point]:
    """Count the calls of one undisturbed run, which takes a tracer; return each as (call, number).

    strace counts the calls of each thread apart: the busiest one says how many points there are.
    """
    done = run(*strace(f"trace={','.join(CALLS)}"), "-o", str(log))
    assert 0 == done.returncode, done.stderr
    counts = Counter(re.findall(r"^(\d+ +)?(\w+)\(", log.read_text(), re.MULTILINE))
    most = {call: max((count for (_, name), count in counts.items() if name == call), default=0) for call in CALLS}
    return [(call, number) for call in CALLS for number in range(1, most[call] + 1)]


def sample(every: list[Point], count: int = QUICK_POINTS) -> list[Point]:
    """Return a seeded choice of points, in order."""
    return sorted(random.Random(SEED).sample(every, min(count, len(every))))


needs_strace = pytest.mark.skipif(not strace_works(), reason="strace is not installed or may not trace here")
