"""Removal of whole folders, including a folder that is a mount point."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from installer.setup import durable_files
from tests.support.mounts import tmpfs

ROOT = Path(__file__).parents[3]


def test_removing_a_mount_point_empties_it(tmp_path: Path):
    """Removing a mount point deletes its files and links but not the mount point, which the kernel keeps, nor the
    targets of the links. Once unmounted, the folder can be removed."""
    (tmp_path / "elsewhere").write_text("x")
    with tmpfs(tmp_path / "disk", "size=1m") as disk:
        (disk / "blobs/sha256").mkdir(parents=True)
        (disk / "blobs/sha256/file").write_text("x")
        (disk / "link").symlink_to(tmp_path / "elsewhere")
        durable_files.remove(disk)
        assert [] == list(disk.iterdir())
    durable_files.remove(tmp_path / "disk")
    assert [tmp_path / "elsewhere"] == list(tmp_path.iterdir())


def test_purge_with_state_on_a_separate_disk_removes_the_secrets(tmp_path: Path):
    """If /var/lib/edge-agent is a mount point, a purge empties it, removes the site's secrets and names the `umount`
    command."""
    secret = tmp_path / "etc/credstore.encrypted/edge-agent-uplink.cred"
    secret.parent.mkdir(parents=True)
    secret.write_text("x")
    (tmp_path / "var/lib").mkdir(parents=True)
    with tmpfs(tmp_path / "var/lib/edge-agent", "size=1m") as state:
        (state / "site.key").write_text("x")
        command = [sys.executable, "-m", "installer.setup", "--root", str(tmp_path), "purge", "--yes"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (0, [], False) == (done.returncode, list(state.iterdir()), secret.exists()), done.stdout + done.stderr
        assert f"sudo umount {state}" in done.stdout
