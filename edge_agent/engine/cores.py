"""How many cores the kernel lets this process use: its affinity, and the quotas of its control groups (cgroup v2)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath

from edge_agent.engine.budget import allowed_cores


def available(root: Path = Path("/")) -> int:
    """Return at least 1. `root` is where /proc and /sys are."""
    return allowed_cores(len(os.sched_getaffinity(0)), _cpu_max(root))


def _cpu_max(root: Path) -> list[str]:
    """Read cpu.max of the own group and of all around it; those without one (the root, cgroup v1) set no limit."""
    contents = []
    with contextlib.suppress(OSError):
        # proc(5): "0::/system.slice/edge-agent.service" is the line of cgroup v2
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        own = next((PurePosixPath(line[4:]) for line in lines if line.startswith("0::/")), PurePosixPath())
        for group in (own, *own.parents):
            with contextlib.suppress(OSError):
                contents.append((root / "sys/fs/cgroup" / group / "cpu.max").read_text())
    return contents
