"""Rows of the disk that holds the state folder: full, without inodes, read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.finding_cases.case import made
from tests.support.finding_cases.site import FaultySite

DISK_BYTES = 4 * 10**9
INODES = 12_000
LITTLE_FREE_BYTES, NOTHING_FREE_BYTES = 1_500_000_000, 20_000_000


def own_disk(folder: Path) -> Mapping[str, Any]:
    """Put the state folder on a separate disk: a sparse file, in which only written data takes space."""
    image, mounted = folder / "disk.img", folder / "site" / "state"
    mounted.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-m0", f"-N{INODES}", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    (mounted / "lost+found").rmdir()
    mounted.chmod(0o700)
    return {"store": {"disk_reserve_bytes": 100_000_000}}


def _disk(site: FaultySite) -> Path:
    site.ends.callback(subprocess.run, ["umount", "-l", str(site.daemon.state_dir)], check=True)
    return site.daemon.state_dir


def fill(site: FaultySite, left: int) -> None:
    """Write a file of another program that leaves this number of bytes free."""
    free = int(subprocess.check_output(["stat", "-f", "-c", "%a", _disk(site)])) * 4096
    subprocess.run(["fallocate", "-l", str(free - left), str(site.daemon.state_dir / "large.log")], check=True)


def free(site: FaultySite) -> None:
    """Remove the file of the other program."""
    (site.daemon.state_dir / "large.log").unlink()


@made("disk/warning/a-new-version-may-not-fit", settings=own_disk, by_hand=free)
def disk_nearly_full(site: FaultySite) -> None:
    """Another program filled the disk, nearly."""
    fill(site, LITTLE_FREE_BYTES)


@made("disk/fault/below-the-reserve-of-the-daemon-stores-nothing-new", settings=own_disk, by_hand=free)
def disk_full(site: FaultySite) -> None:
    """Another program filled the disk."""
    fill(site, NOTHING_FREE_BYTES)


def _small_files(site: FaultySite, left: int) -> None:
    folder = _disk(site) / "small"
    folder.mkdir()
    free = int(subprocess.check_output(["stat", "-f", "-c", "%d", folder]))
    for number in range(free - left):
        (folder / str(number)).touch()


def _remove_small_files(site: FaultySite) -> None:
    subprocess.run(["rm", "-r", str(site.daemon.state_dir / "small")], check=True)


@made("inodes/warning/left", settings=own_disk, by_hand=_remove_small_files)
def few_inodes(site: FaultySite) -> None:
    """A program made thousands of small files."""
    _small_files(site, 5000)


@made("inodes/fault/left-no-file-can-be-made-soon", settings=own_disk, by_hand=_remove_small_files)
def no_inodes(site: FaultySite) -> None:
    """A program made small files until there was room for few more."""
    _small_files(site, 300)


@made("disk/fault/mounted-read-only", by_hand=lambda site: _remount(site, "rw"))
def disk_read_only(site: FaultySite) -> None:
    """The file system of the state folder was mounted again, read-only."""
    folder = str(site.daemon.state_dir)
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    site.ends.callback(subprocess.run, ["umount", "-l", folder], check=True)
    _remount(site, "ro")


def _remount(site: FaultySite, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how},bind", str(site.daemon.state_dir)], check=True)
