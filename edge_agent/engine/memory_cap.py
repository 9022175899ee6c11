"""What a child may take: its own estimate times a factor and a constant, enforced by the kernel. The parent's side.

A child adds up what it needs before a library opens a file (MemoryEstimate), and again before each attach that needs
more. The daemon sets the limit of that process and only then lets it go on (MemoryGrant): the child itself can neither
set nor raise a limit, its system call filter denies that (confinement/seccomp.py).

The limit is the soft RLIMIT_DATA, which counts private writable memory (VmData of proc(5)), touched or not, and not
weights that are mapped to be read; and `memory.max` of a control group of its own, which counts what is touched, where
the daemon has a delegated one (child_groups.py).
"""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass

from edge_agent.engine.child_groups import ChildGroup, delegated, group_for
from edge_agent.engine.memory import megabytes
from edge_agent.engine.protocol import MemoryEstimate, MemoryGrant

FACTOR_PERCENT = 150
"""Of the estimate. Measured: VmData of SmolLM2, Gemma 3 and MiniLM at work is 0.75 to 0.96 of it."""
RUNTIME_BYTES = 256 << 20
"""Beside that: what malloc keeps, and the largest frame (FRAME_BYTES_MAX) with its copies."""
THREAD_BYTES = 32 << 20
"""For each thread: its stack counts whole, and malloc keeps an arena for it."""
DEVICE_BYTES = 8 << 30
"""For a driver, which reserves more address space than it touches, by an amount that no estimate knows."""


def cap_bytes(estimate: MemoryEstimate) -> int:
    """Return the limit that follows from an estimate, in bytes."""
    counted = estimate.needed_bytes + estimate.headroom_bytes
    device = 0 if estimate.device == "cpu" else DEVICE_BYTES
    return counted * FACTOR_PERCENT // 100 + RUNTIME_BYTES + estimate.threads * THREAD_BYTES + device


@dataclass
class MemoryCap:
    """Of one child."""

    pid: int = 0
    group: ChildGroup | None = None
    estimated_bytes: int = 0
    granted_bytes: int = 0
    """Of the estimate, what there was room for."""
    peak_bytes: int = 0
    """The most that it had in memory, when it is gone; 0 = not known."""
    limit_bytes: int = 0
    """0 = it has made no estimate yet: all that was free when it started is its limit."""

    @classmethod
    def of(cls, pid: int) -> MemoryCap:
        """Return that of a process which has just begun, in a group of its own where there can be one."""
        return cls(pid, group_for(delegated(), pid))

    def grant(self, estimate: MemoryEstimate, available_bytes: int) -> MemoryGrant:
        """Limit the process to what follows from its estimate; never to more than it was started with."""
        if not available_bytes or estimate.needed_bytes <= available_bytes:
            self.granted_bytes = max(self.granted_bytes, estimate.needed_bytes)
        self.estimated_bytes = max(self.estimated_bytes, estimate.needed_bytes)
        self.limit_bytes = max(self.limit_bytes, cap_bytes(estimate))
        with contextlib.suppress(OSError, ValueError):  # it is gone, or the kernel has no such limit: status says so
            hard = resource.prlimit(self.pid, resource.RLIMIT_DATA)[1]
            soft = self.limit_bytes if hard == resource.RLIM_INFINITY else min(self.limit_bytes, hard)
            resource.prlimit(self.pid, resource.RLIMIT_DATA, (soft, hard))
            self.limit_bytes = soft
        if self.group is not None:
            self.group.limit(self.limit_bytes)
        return MemoryGrant(available_bytes=available_bytes)

    def remove(self) -> None:
        """Remove the group, when the process is gone."""
        if self.group is not None:
            self.group.remove()

    @property
    def told(self) -> str:
        """Return the numbers that a child's death is told with; empty = it made no estimate."""
        if not self.limit_bytes:
            return ""
        taken = f", and had taken {megabytes(self.peak_bytes)}" if self.peak_bytes else ""
        estimated, limit = megabytes(self.estimated_bytes), megabytes(self.limit_bytes)
        return f"; it was estimated to need {estimated} of memory, was limited to {limit}{taken}"

    @property
    def metadata(self) -> dict[str, str]:
        """Return the same as numbers."""
        if not self.limit_bytes:
            return {}
        return {
            "memory_estimated_bytes": str(self.estimated_bytes),
            "memory_limit_bytes": str(self.limit_bytes),
            "memory_peak_bytes": str(self.peak_bytes),
        }
