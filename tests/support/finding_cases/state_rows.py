"""Rows of the state folder: its rights, its owners, its databases and the site's key."""

from __future__ import annotations

import os
import shutil

from tests.support.finding_cases.case import made
from tests.support.finding_cases.exchange_rows import collecting
from tests.support.finding_cases.site import FaultySite


@made("state-dir/warning/is-every-user-may-read-it")
def open_folder(site: FaultySite) -> None:
    """Somebody let every user in."""
    site.daemon.state_dir.chmod(0o755)


@made("state-dir/fault/is-not-a-folder", with_it=("daemon", "socket", "updates-believed"), has_task=False)
def file_in_place_of_the_folder(site: FaultySite) -> None:
    """The daemon is stopped, and a file has the folder's name."""
    site.daemon.stop()
    shutil.rmtree(site.daemon.state_dir)
    site.daemon.state_dir.write_text("x")


@made("state-owner/fault/holds-of-another-user-such-as")
def foreign_file(site: FaultySite) -> None:
    """A file was copied in by another user."""
    path = site.daemon.state_dir / "copied"
    path.write_text("x")
    os.chown(path, 65534, -1)


@made("database/fault/is-damaged", with_it=("daemon", "socket", "updates-believed"), has_task=False)
def damaged_database(site: FaultySite) -> None:
    """The disk lost the beginning of state.db while the daemon was off."""
    site.daemon.stop()
    for path in site.daemon.state_dir.glob("state.db-*"):
        path.unlink()
    (site.daemon.state_dir / "state.db").write_bytes(b"x" * 8192)


@made("site-key/fault/is-not-a-key-bytes")
def key_cut_short(site: FaultySite) -> None:
    """The site's key is empty after a power cut."""
    (site.daemon.state_dir / "site.key").write_bytes(b"")


@made("site-key/warning/is-other-users-may-read-it", settings=collecting)
def key_that_others_read(site: FaultySite) -> None:
    """Somebody copied the key back with every right."""
    (site.daemon.state_dir / "site.key").chmod(0o644)


@made("site-key/note/does-not-exist-yet", settings=collecting)
def key_away(site: FaultySite) -> None:
    """The key was moved away."""
    (site.daemon.state_dir / "site.key").unlink()
