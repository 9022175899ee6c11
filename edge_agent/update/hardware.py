"""What this machine has, as a plan asks for it."""

from __future__ import annotations

import re
from pathlib import Path

from edge_agent.formats.plan import MachineCapabilities

_BYTES_IN_KIB = 1024


def read_machine(devices: frozenset[str] = frozenset({"cpu"}), root: Path = Path("/")) -> MachineCapabilities:
    """Read it from proc(5), which is mounted at `root`; `devices` are those that the engines may use."""
    memory = re.search(r"^MemTotal: +(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    # x86 writes flags, Arm Features; every core has the same ones.
    features = re.search(r"^(?:flags|Features)\s*: (.*)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    return MachineCapabilities(
        memory_bytes=int(memory[1]) * _BYTES_IN_KIB if memory else 0,
        devices=devices,
        cpu_features=frozenset(features[1].split()) if features else frozenset(),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
