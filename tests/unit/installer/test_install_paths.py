"""Which files of a machine an installation keeps until somebody purges them."""

from __future__ import annotations

from pathlib import Path

from installer.setup.install_paths import InstallPaths


def test_every_secret_that_enrolment_wrote_is_removed_by_a_purge(tmp_path: Path):
    """The key of a large model too, encrypted or not; secrets of other programs are not touched."""
    ours = ["credstore.encrypted/edge-agent-uplink.cred", "credstore.encrypted/edge-agent-uplink-updates.cred"]
    ours += ["credstore.encrypted/edge-agent-escalation.cred", "credstore/edge-agent-escalation.cred"]
    for name in (*ours, "credstore.encrypted/backup.cred"):
        path = tmp_path / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert {tmp_path / "etc" / name for name in ours} == set(InstallPaths(tmp_path).kept)
