"""A control group for each child, below that of the daemon, where systemd has delegated it (`Delegate=memory`).

A group with processes in it cannot share out a controller (cgroups(7), "no internal processes"): the daemon itself is
in a group below the delegated one (`DelegateSubgroup=`, systemd 254), and the children's are beside it. Anywhere else
there is none, and RLIMIT_DATA alone limits a child.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from pathlib import Path

PREFIX = "engine-"
_DELEGATED = "user.delegate"  # systemd marks the groups that it leaves to a service (v250)


class ChildGroup:
    """The control group of one child."""

    def __init__(self, folder: Path) -> None:
        """Take a folder that was made for it."""
        self._folder = folder

    def limit(self, size: int) -> None:
        """Set the most that may be in memory, in bytes; what is over it and cannot be given back ends the child."""
        with contextlib.suppress(OSError):
            (self._folder / "memory.max").write_text(str(size))

    def remove(self) -> None:
        """Remove it, when its process is gone."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()


@functools.cache
def delegated(root: Path = Path("/")) -> Path | None:
    """Return the folder in which groups for children can be made; None = there is none."""
    try:
        own = re.search(r"^0::/(.+)$", (root / "proc/self/cgroup").read_text(), re.MULTILINE)
        folder = (root / "sys/fs/cgroup" / own[1]).parent if own else None
        shared = (folder / "cgroup.subtree_control").read_text().split() if folder else []
        left_to_us = folder is not None and os.getxattr(folder, _DELEGATED) == b"1"
    except OSError:
        return None
    if folder is None or not left_to_us or not os.access(folder, os.W_OK):
        return None
    if "memory" not in shared:
        try:
            (folder / "cgroup.subtree_control").write_text("+memory")
        except OSError:  # processes are in it, or the controller was not delegated
            return None
    return folder


def group_for(folder: Path | None, pid: int) -> ChildGroup | None:
    """Make a group and put a process into it; None = that cannot be done."""
    if folder is None:
        return None
    own = folder / f"{PREFIX}{pid}"
    try:
        own.mkdir(exist_ok=True)
        (own / "cgroup.procs").write_text(str(pid))
    except OSError:
        with contextlib.suppress(OSError):
            own.rmdir()
        return None
    return ChildGroup(own)
