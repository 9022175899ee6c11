"""Whether a folder is on a drive that is mounted, or on this machine's own disk.

An empty mount point looks like a drive: what is copied there fills this machine's disk and reaches nobody.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import MediaFailed

DRIVE_FOLDERS = (Path("/media"), Path("/mnt"), Path("/run/media"))
"""Below them drives are mounted, by the rules of the file system hierarchy and of desktops."""
MOUNTS = Path("/proc/self/mountinfo")
_MOUNT_POINT = 4  # proc_pid_mountinfo(5)
_LOOK = "Plug the drive in, look with 'lsblk' where it is mounted, and name that folder"


@dataclass(frozen=True)
class DriveFolder:
    """A folder that is to be on a drive."""

    path: Path
    mount_point: Path
    """The root of the file system that it is on."""
    is_own_disk: bool
    """That file system is the one of / or of the daemon's state directory."""

    @property
    def is_unmounted(self) -> bool:
        """It is below a folder for drives, and nothing is mounted there."""
        return any(
            self.path.is_relative_to(folder) and not self.mount_point.is_relative_to(folder) for folder in DRIVE_FOLDERS
        )

    @property
    def doubt(self) -> str:
        """What makes it doubtful that a drive is there, as a sentence without its end; empty = nothing does."""
        if self.is_unmounted:
            return f"no drive is mounted at {self.path}"
        return f"{self.path} is on this machine's own disk; is the drive mounted?" if self.is_own_disk else ""

    def require_drive(self) -> None:
        """Refuse a folder for drives without a drive. Raises MediaFailed."""
        if self.is_unmounted:
            remedy = f"{_LOOK}. '--yes' copies to this folder nevertheless."
            raise MediaFailed(f"{self.doubt}, so nothing was copied", remedy=remedy, path=self.path)


def look_at_folder(path: Path, *own: Path) -> DriveFolder:
    """Look where an existing folder is. `own` are folders of the daemon. Raises OSError."""
    path = path.resolve()
    mounts = mount_points(MOUNTS.read_text(errors="surrogateescape")) if MOUNTS.exists() else []
    own_disks = {folder.stat().st_dev for folder in (Path("/"), *own)}
    return DriveFolder(path, mount_point_of(path, mounts), path.stat().st_dev in own_disks)


def mount_points(mountinfo: str) -> list[Path]:
    """Return the mount points that /proc/self/mountinfo names; it writes a space as \\040."""
    named = (line.split(" ")[_MOUNT_POINT] for line in mountinfo.splitlines())
    return [Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), name)) for name in named]


def mount_point_of(path: Path, mounts: Sequence[Path]) -> Path:
    """Return the nearest mount point at or above an absolute path.

    A mount of a folder of the same disk (mount --bind) is found in `mounts` only; other systems than Linux have none.
    """
    return next(each for each in (path, *path.parents) if each in mounts or os.path.ismount(each))
