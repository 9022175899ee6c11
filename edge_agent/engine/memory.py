"""What a model needs in memory, what there is, and the refusal with both.

The pool measures what there is before it starts a child. The child adds up what the model needs before it loads it, and
refuses what does not fit: later it would be killed, and with it whatever else the machine runs. A need is an upper
bound, within 1.5 times of what the child takes (tests/process/test_memory.py measures it).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from edge_agent.errors import MemoryShort

_BYTES_IN_KIB = 1024
_CGROUP_LIMITS = ("memory.max", "memory.high")


@dataclass(frozen=True)
class Need:
    """Memory of one engine, in bytes."""

    weights: int
    """The file: mapped weights have to stay in memory too, or every step reads the disk."""
    copies: int
    """Weights that the library lays out anew for this processor."""
    cache: int
    """Keys and values of all tokens that the engine can hold."""
    compute: int
    """What a step works with: activations, logits, candidates."""
    process: int
    """Python, the libraries and the vocabulary."""
    adapters: int = 0
    """LoRA adapters, which come and go while the base stays."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.copies + self.cache + self.compute + self.process + self.adapters

    def check(self, available: int, wanted: int = 0) -> None:
        """Raise MemoryShort unless it fits, and what the manifest asks for as well.

        Args:
            available: in bytes; 0 = nobody measured it, and everything fits.
            wanted: `requires.memory_bytes` of the manifest.
        """
        if not available or max(self.total, wanted) <= available:
            return
        if self.total <= available:
            raise MemoryShort(
                f"the bundle asks for {megabytes(wanted)} of memory; {megabytes(available)} is available",
                needed_bytes=wanted,
                available_bytes=available,
            )
        adapters = f" + adapters {megabytes(self.adapters)}" if self.adapters else ""
        raise MemoryShort(
            f"the model needs {megabytes(self.total)} of memory (weights {megabytes(self.weights)} + repacked copies "
            f"{megabytes(self.copies)} + key-value cache {megabytes(self.cache)} + compute {megabytes(self.compute)}"
            f" + process {megabytes(self.process)}{adapters}); {megabytes(available)} is available",
            needed_bytes=self.total,
            available_bytes=available,
            **{f"{part}_bytes": size for part, size in asdict(self).items()},
        )

    def details(self, available: int) -> dict[str, str]:
        """Return both numbers as status shows them."""
        return {"memory_estimated_bytes": str(self.total), "memory_limit_bytes": str(available)}


class Use(NamedTuple):
    """What one engine takes, in bytes."""

    resident: int
    granted: int | None = None
    """What it was granted and takes step by step, while it loads; 0 = it has not asked yet. None = it does not load."""

    @property
    def counted(self) -> int:
        """What is not there for others. A child that has not asked yet asks after them."""
        if self.granted is None:
            return self.resident
        return max(self.granted, self.resident) if self.granted else 0

    @property
    def coming(self) -> int:
        """What of that it has not taken yet."""
        return max(0, self.counted - self.resident)


def available(reserve: int, cap: int, own: int, others: Sequence[Use], root: Path = Path("/")) -> int:
    """Return how much one engine may take in all, in bytes, at least 1.

    Args:
        reserve: what stays for the rest of the machine.
        cap: the most that all engines together may take; 0 = no such limit.
        own: what it has taken already, in bytes.
        others: the other engines.
        root: where proc and sys are mounted.
    """
    limits = [_free_in_machine(root), *_free_in_cgroups(root)]
    free = min(limit - reserve for limit in limits) + own - sum(each.coming for each in others)
    return max(1, min(free, cap - sum(each.counted for each in others)) if cap else free)


def _free_in_machine(root: Path) -> int:
    """Return MemAvailable of proc(5): what can be had without swapping, unused page cache included."""
    found = re.search(r"^MemAvailable: +(\d+) kB$", (root / "proc/meminfo").read_text(), re.MULTILINE)
    assert found, "Linux 3.14 and newer have MemAvailable"
    return int(found[1]) * _BYTES_IN_KIB


def _free_in_cgroups(root: Path) -> list[int]:
    """Return what is left below each limit of our control group and those above it (cgroup v2)."""
    own = re.search(r"^0::/(.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE)
    mount = root / "sys/fs/cgroup"
    if own is None:
        return []
    group = mount / own[1]
    groups = [group, *group.parents]
    return [left for each in groups[: groups.index(mount) + 1] for left in _free_in_group(each)]


def _free_in_group(group: Path) -> list[int]:
    # Like MemAvailable: page cache that nobody uses now is given up when memory is wanted.
    idle = re.search(r"^inactive_file (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
    current = _text(group / "memory.current")
    limits = [_text(group / name) for name in _CGROUP_LIMITS]
    taken = int(current or 0) - (int(idle[1]) if idle else 0)
    return [int(limit) - taken for limit in limits if limit.isdecimal()]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def megabytes(size: int) -> str:
    """Write a size as messages have it."""
    return f"{size / 1e6:.1f} MB"
