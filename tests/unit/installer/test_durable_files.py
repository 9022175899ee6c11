"""What is removed from a machine: whole folders, and all on a disk that is mounted in the place of one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from installer.setup import durable_files
from tests.support.mounts import tmpfs

ROOT = Path(__file__).parents[3]


def test_a_mount_point_is_emptied_and_stays(tmp_path: Path):
    """The kernel refuses to remove it; everything in it is gone, links included, and what they lead to is not."""
    (tmp_path / "elsewhere").write_text("x")
    with tmpfs(tmp_path / "disk", "size=1m") as disk:
        (disk / "blobs/sha256").mkdir(parents=True)
        (disk / "blobs/sha256/file").write_text("x")
        (disk / "link").symlink_to(tmp_path / "elsewhere")
        durable_files.remove(disk)
        assert [] == list(disk.iterdir())
    durable_files.remove(tmp_path / "disk")
    assert [tmp_path / "elsewhere"] == list(tmp_path.iterdir())


def test_a_purge_removes_the_secrets_of_a_site_whose_state_is_on_a_disk_of_its_own(tmp_path: Path):
    """It goes on behind the mount point, which it names with the command that frees it."""
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
