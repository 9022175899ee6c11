"""Setting aside the data of the site that this machine was before: its key, its spool and its sealed segments.

A site's key, its spool and its segments belong together, and to that site: the central team would refuse them under
another name. Nothing is deleted. Sealed segments go to `outbox/former/<time>/site=<id>/`, which `edge-convert collect`
takes as it is; key and spool to `state_dir/former/<time>/`. Bundles stay, and continue to answer.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from edge_agent.config import Config
from edge_agent.durable.atomic_files import disk_errors, sync_directory
from edge_agent.errors import StateDirInUse

FOLDER = "former"
_OF_STATE = ("site.key", "value.key", "spool.db", "spool.db-wal", "spool.db-shm")


@dataclass(frozen=True)
class PreviousSite:
    """What was set aside."""

    state: Path
    outbox: Path
    segments: int
    """Sealed, without a receipt of the central team."""


def check_idle(config: Config) -> None:
    """Make sure that no daemon is at work in the state directory. Raises StateDirInUse."""
    lock = config.state_dir / "lock"
    if not lock.exists():
        return
    with disk_errors(lock):
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = f"the daemon is at work in {config.state_dir}, and this machine is about to become another site"
            remedy = (
                "Stop it first: 'sudo systemctl stop edge-agent edge-uplink', or as it was started. Then enrol again."
            )
            raise StateDirInUse(said, remedy=remedy, path=config.state_dir) from None
        finally:
            os.close(fd)


def set_aside(config: Config, site: str, stamp: str) -> PreviousSite:
    """Move all data of a site; after a crash the same call completes it.

    Raises:
        SiteError: this disk failed.
    """
    state, outbox = config.state_dir / FOLDER / stamp, config.outbox / FOLDER / stamp
    with disk_errors(state):
        found = len(list((config.outbox / "segments").glob("*.age")))
        # Receipts first: they would delete, for the new site, what the previous one has sealed.
        (config.receipts / "receipts.json").unlink(missing_ok=True)
        _move([config.outbox / "segments", config.outbox / "status.json"], outbox / f"site={site}")
        _move([config.state_dir / name for name in _OF_STATE], state)
    return PreviousSite(state, outbox, found)


def _move(sources: list[Path], target: Path) -> None:
    for source in filter(Path.exists, sources):
        for folder in (target.parent.parent, target.parent, target):
            _make_like(source.parent, folder)
        source.rename(target / source.name)
        if (target / source.name).is_dir():
            # The daemon's own, and readable by the uplink, as it was.
            _make_like(target / source.name, source)
        for folder in (target, source.parent):
            sync_directory(folder)


def _make_like(model: Path, folder: Path) -> None:
    """Make a folder with owner and mode of another one."""
    if not folder.exists():
        like = model.stat()
        folder.mkdir()
        os.chown(folder, like.st_uid, like.st_gid)
        folder.chmod(like.st_mode & 0o7777)
