"""What a process holds, as proc(5) has it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HeldResources:
    """What it holds now."""

    descriptors: int
    resident_bytes: int


def held(pid: int) -> HeldResources:
    """Look at a process; nothing is held by one that is gone."""
    folder = Path(f"/proc/{pid}")
    try:
        pages = int((folder / "statm").read_text().split()[1])
        return HeldResources(_descriptors(folder), pages * os.sysconf("SC_PAGE_SIZE"))
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return HeldResources(0, 0)


def _descriptors(folder: Path) -> int:
    try:
        return len(list((folder / "fd").iterdir()))
    except PermissionError:  # a confined child shows only root which ones; how many places it has is for all to see
        return int(re.findall(r"FDSize:\s+(\d+)", (folder / "status").read_text())[0])
