"""Files that an uninstall keeps and a purge removes, and the lock of setup."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer.setup.__main__ import _exclusive_lock
from installer.setup.commands import SetupRun
from installer.setup.install_paths import InstallPaths
from installer.setup.programs import InstalledPrograms
from installer.setup.services import Services


def setup_below(root: Path) -> SetupRun:
    """Return a run of setup that uses `root` as the root of the file system."""
    places = InstallPaths(root)
    return SetupRun(places, Services(places, starts_units=False), InstalledPrograms(places))


def test_purge_covers_every_secret_of_the_enrolment(tmp_path: Path):
    """The files that a purge removes include each secret of the enrolment, encrypted or not, and no secret of another
    program."""
    ours = ["credstore.encrypted/edge-agent-uplink.cred", "credstore.encrypted/edge-agent-uplink-updates.cred"]
    ours += ["credstore.encrypted/edge-agent-escalation.cred", "credstore/edge-agent-escalation.cred"]
    for name in (*ours, "credstore.encrypted/backup.cred"):
        path = tmp_path / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert {tmp_path / "etc" / name for name in ours} == set(InstallPaths(tmp_path).kept)


def test_purge_removes_only_drop_ins_and_edited_files_of_our_units(tmp_path: Path):
    """A purge removes drop-ins and `.edited` files of this program's units; a unit of another program whose name begins
    with `edge-` keeps its drop-ins."""
    units, sysusers = tmp_path / "etc/systemd/system", tmp_path / "etc/sysusers.d"
    ours = [units / "edge-agent.service.d/50-gpu.conf", units / "edge-uplink.service.d/folders.conf"]
    ours += [units / "edge-agent.service.edited", sysusers / "edge-agent.conf.edited"]
    other = units / "edge-router.service.d/limits.conf"
    for path in (*ours, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    setup_below(tmp_path).purge(agreed=True)
    assert ([], True) == ([path for path in ours if path.exists()], other.exists())


def test_purge_removes_partial_files_of_an_interrupted_setup(tmp_path: Path):
    """A purge removes the `.partial` files and links that a power cut during setup leaves next to their final
    places."""
    link, unit = (tmp_path / name for name in ("usr/local/sbin/.edge-agent-setup.partial", "etc/systemd/system"))
    for folder in (link.parent, unit):
        folder.mkdir(parents=True)
    link.symlink_to(tmp_path / "opt/edge-agent/current/bin/edge-agent-setup")
    (unit / ".edge-agent.service.partial").write_text("[Un")
    setup_below(tmp_path).purge(agreed=True)
    assert [] == [path for path in tmp_path.rglob("*") if not path.is_dir() or path.is_symlink()]


def test_purge_keeps_and_names_the_target_of_a_linked_state_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """If the state directory is a symbolic link, a purge removes the link, keeps its target, which can hold other data,
    and names the target."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/key").write_text("x")
    state = tmp_path / "var/lib/edge-agent"
    state.parent.mkdir(parents=True)
    state.symlink_to(tmp_path / "data")
    setup_below(tmp_path).purge(agreed=True)
    said = capsys.readouterr().out
    assert (False, True) == (state.is_symlink(), (tmp_path / "data/key").exists())
    assert f"a link to {tmp_path / 'data'}, which stays" in said
    assert said.endswith("Removed everything else.\n")


def test_uninstall_without_remaining_files_does_not_mention_purge(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """An uninstall that keeps no files does not print the purge command."""
    setup_below(tmp_path).uninstall()
    assert "purge" not in capsys.readouterr().out


def test_setup_lock_is_private_and_follows_no_link(tmp_path: Path):
    """Setup's lock is in /run, where only root can write, has mode 0600 and is refused if it is a symbolic link."""
    assert Path("/run") == InstallPaths().lock.parent
    victim, lock = tmp_path / "passwd", tmp_path / "run/setup.lock"
    victim.write_text("root")
    lock.parent.mkdir()
    lock.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"), _exclusive_lock(lock):
        pass
    assert "root" == victim.read_text()
    lock.unlink()
    with _exclusive_lock(lock):
        assert 0o600 == lock.stat().st_mode & 0o777
