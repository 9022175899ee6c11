"""What a model needs in memory, and what a child may take: its estimate times a factor, plus a constant.

The pool measures what is available before it starts a child (machine_limits.py). The child adds up what the model needs
before it loads it, and refuses a model that does not fit: otherwise the kernel would later kill the child or another
program. A need is an upper bound, within 1.5 times of what the child takes (tests/process/test_memory.py measures it).

A child adds up what it needs before a library opens a file (MemoryEstimate), and again before each attach that needs
more. The daemon sets the limit of that process and only then lets it continue (MemoryGrant): the child itself can
neither set nor raise a limit, because its system call filter denies that (engine/confinement.py).

The limit is the soft RLIMIT_DATA, which counts private writable memory (VmData of proc(5)), touched or not, without
weights that are mapped for reading. Where systemd has delegated a control group (`Delegate=memory`), each child also
has a group of its own with `memory.max`, which counts what is touched. A group with processes in it cannot share out a
controller (cgroups(7), "no internal processes"): so the daemon itself is in a group below the delegated one
(`DelegateSubgroup=`, systemd 254), and the children's groups are next to it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import resource
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_agent.engine.protocol import MemoryEstimate, MemoryGrant
from edge_agent.errors import MemoryShort


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of one engine, in bytes."""

    weights: int
    """The file: mapped weights have to stay in memory too, because otherwise every step reads the disk."""
    copies: int
    """Weights that the library repacks for this processor."""
    cache: int
    """Keys and values of all tokens that the engine can hold at once."""
    compute: int
    """Working memory of a step: activations, logits, candidates."""
    process: int
    """Python, the libraries and the vocabulary."""
    adapters: int = 0
    """LoRA adapters, which are loaded and unloaded while the base stays."""

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weights + self.copies + self.cache + self.compute + self.process + self.adapters

    def check(self, available: int, required: int = 0) -> None:
        """Raise MemoryShort unless both the need and the manifest's demand fit.

        Args:
            available: in bytes; 0 = not measured, and everything fits.
            required: `requires.memory_bytes` of the manifest.
        """
        if not available or max(self.total, required) <= available:
            return
        free = format_megabytes(available)
        if self.total <= available:
            raise MemoryShort(
                f"the bundle asks for {format_megabytes(required)} of memory; {free} is available",
                needed_bytes=required,
                available_bytes=available,
            )
        names = {"weights": "weights", "copies": "repacked copies", "cache": "key-value cache"}
        names |= {"compute": "compute", "process": "process"} | ({"adapters": "adapters"} if self.adapters else {})
        parts = " + ".join(f"{name} {format_megabytes(getattr(self, part))}" for part, name in names.items())
        raise MemoryShort(
            f"the model needs {format_megabytes(self.total)} of memory ({parts}); {free} is available",
            needed_bytes=self.total,
            available_bytes=available,
            **{f"{part}_bytes": size for part, size in asdict(self).items()},
        )

    def details(self, available_memory: int) -> dict[str, str]:
        """Return need and limit in bytes, as status shows them."""
        return {"memory_estimated_bytes": str(self.total), "memory_limit_bytes": str(available_memory)}


def format_megabytes(size: int) -> str:
    """Return a size always in MB: messages compare what is needed with what is available."""
    return f"{size / 1e6:.1f} MB"


FACTOR_PERCENT = 150
"""Of the estimate. Measured: VmData of SmolLM2, Gemma 3 and MiniLM at work is 0.75 to 0.96 of the estimate."""
RUNTIME_BYTES = 256 << 20
"""In addition: what malloc keeps, and the largest frame (FRAME_BYTES_MAX) with its copies."""
THREAD_BYTES = 32 << 20
"""For each thread: its whole stack counts, and malloc keeps an arena for it."""
DEVICE_BYTES = 8 << 30
"""For a driver, which reserves more address space than it touches, by an amount that cannot be estimated."""
GROUP_PREFIX = "engine-"
_DELEGATED = "user.delegate"  # systemd marks the groups that it leaves to a service (v250)


def cap_bytes(estimate: MemoryEstimate) -> int:
    """Return the limit that follows from an estimate, in bytes."""
    estimated_bytes = estimate.needed_bytes + estimate.headroom_bytes
    device = 0 if estimate.device == "cpu" else DEVICE_BYTES
    return estimated_bytes * FACTOR_PERCENT // 100 + RUNTIME_BYTES + estimate.threads * THREAD_BYTES + device


@dataclass
class MemoryCap:
    """The limit of one child, and the numbers that it follows from."""

    pid: int = 0
    group: Path | None = None
    """The folder of its control group."""
    estimated_bytes: int = 0
    granted_bytes: int = 0
    """The part of the estimate that fitted into the available memory."""
    peak_bytes: int = 0
    """The most that it had in memory, known after its end; 0 = not known."""
    limit_bytes: int = 0
    """0 = it has made no estimate yet: its limit is the memory that was free when it started."""

    @classmethod
    def of(cls, pid: int) -> MemoryCap:
        """Return the cap of a process that has just started, in a control group of its own where that is possible."""
        return cls(pid, make_child_group(delegated_cgroup(), pid))

    def grant(self, estimate: MemoryEstimate, available_bytes: int) -> MemoryGrant:
        """Limit the process by its estimate, and never to more than it was started with."""
        if not available_bytes or estimate.needed_bytes <= available_bytes:
            self.granted_bytes = max(self.granted_bytes, estimate.needed_bytes)
        self.estimated_bytes = max(self.estimated_bytes, estimate.needed_bytes)
        self.limit_bytes = max(self.limit_bytes, cap_bytes(estimate))
        # Fails if the process is gone, or if the kernel has no such limit, which status shows.
        with contextlib.suppress(OSError, ValueError):
            hard = resource.prlimit(self.pid, resource.RLIMIT_DATA)[1]
            soft = self.limit_bytes if hard == resource.RLIM_INFINITY else min(self.limit_bytes, hard)
            resource.prlimit(self.pid, resource.RLIMIT_DATA, (soft, hard))
            self.limit_bytes = soft
        if self.group is not None:
            # The kernel kills a child that exceeds it and cannot give memory back.
            with contextlib.suppress(OSError):
                (self.group / "memory.max").write_text(str(self.limit_bytes))
        return MemoryGrant(available_bytes=available_bytes)

    def remove(self) -> None:
        """Remove the group after the end of the process."""
        if self.group is not None:
            with contextlib.suppress(OSError):
                self.group.rmdir()

    @property
    def summary(self) -> str:
        """Return the numbers for the message about a child's death; empty = it made no estimate."""
        if not self.limit_bytes:
            return ""
        peak = f", and had taken {format_megabytes(self.peak_bytes)}" if self.peak_bytes else ""
        estimated, limit = format_megabytes(self.estimated_bytes), format_megabytes(self.limit_bytes)
        return f"; it was estimated to need {estimated} of memory and limited to {limit}{peak}"

    @property
    def metadata(self) -> dict[str, str]:
        """Return the same numbers for an error's metadata."""
        if not self.limit_bytes:
            return {}
        return {
            "memory_estimated_bytes": str(self.estimated_bytes),
            "memory_limit_bytes": str(self.limit_bytes),
            "memory_peak_bytes": str(self.peak_bytes),
        }


@functools.cache
def delegated_cgroup(root: Path = Path("/")) -> Path | None:
    """Return the folder in which groups for children can be made; None = there is no such folder."""
    try:
        match = re.search(r"^0::/(.+)$", (root / "proc/self/cgroup").read_text(), re.MULTILINE)
        folder = (root / "sys/fs/cgroup" / match[1]).parent if match else None
        controllers = (folder / "cgroup.subtree_control").read_text().split() if folder else []
        is_delegated = folder is not None and os.getxattr(folder, _DELEGATED) == b"1"
    except OSError:
        return None
    if folder is None or not is_delegated or not os.access(folder, os.W_OK):
        return None
    if "memory" not in controllers:
        try:
            (folder / "cgroup.subtree_control").write_text("+memory")
        except OSError:  # processes are in it, or the controller was not delegated
            return None
    return folder


def make_child_group(folder: Path | None, pid: int) -> Path | None:
    """Make a control group and move a process into it; return its folder, None = that is not possible."""
    if folder is None:
        return None
    group = folder / f"{GROUP_PREFIX}{pid}"
    try:
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        return None
    return group
