"""Which files of a machine an installation keeps until somebody purges them."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer.setup.__main__ import _exclusive_lock
from installer.setup.commands import SetupRun
from installer.setup.install_paths import InstallPaths
from installer.setup.programs import InstalledPrograms
from installer.setup.services import Services


def setup_below(root: Path) -> SetupRun:
    """Return a run of setup below a folder."""
    places = InstallPaths(root)
    return SetupRun(places, Services(places, starts_units=False), InstalledPrograms(places))


def test_every_secret_that_enrolment_wrote_is_removed_by_a_purge(tmp_path: Path):
    """The key of a large model too, encrypted or not; secrets of other programs are not touched."""
    ours = ["credstore.encrypted/edge-agent-uplink.cred", "credstore.encrypted/edge-agent-uplink-updates.cred"]
    ours += ["credstore.encrypted/edge-agent-escalation.cred", "credstore/edge-agent-escalation.cred"]
    for name in (*ours, "credstore.encrypted/backup.cred"):
        path = tmp_path / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert {tmp_path / "etc" / name for name in ours} == set(InstallPaths(tmp_path).kept)


def test_a_purge_removes_our_units_drop_ins_and_edited_texts_only(tmp_path: Path):
    """Another program's unit whose name begins with edge- keeps its drop-ins."""
    units, sysusers = tmp_path / "etc/systemd/system", tmp_path / "etc/sysusers.d"
    ours = [units / "edge-agent.service.d/50-gpu.conf", units / "edge-uplink.service.d/folders.conf"]
    ours += [units / "edge-agent.service.edited", sysusers / "edge-agent.conf.edited"]
    other = units / "edge-router.service.d/limits.conf"
    for path in (*ours, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    setup_below(tmp_path).purge(agreed=True)
    assert ([], True) == ([path for path in ours if path.exists()], other.exists())


def test_a_purge_removes_what_a_killed_setup_left_of_links_and_files(tmp_path: Path):
    """Each is made next to its place and renamed: a power cut before that leaves it there."""
    link, unit = (tmp_path / name for name in ("usr/local/sbin/.edge-agent-setup.partial", "etc/systemd/system"))
    for folder in (link.parent, unit):
        folder.mkdir(parents=True)
    link.symlink_to(tmp_path / "opt/edge-agent/current/bin/edge-agent-setup")
    (unit / ".edge-agent.service.partial").write_text("[Un")
    setup_below(tmp_path).purge(agreed=True)
    assert [] == [path for path in tmp_path.rglob("*") if not path.is_dir() or path.is_symlink()]


def test_a_purge_names_what_a_link_leads_to_and_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """State on another disk may hold other things: it is not removed, and not said to be."""
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


def test_an_uninstall_that_keeps_nothing_names_nothing_to_purge(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The way to remove what was kept is only printed where something was."""
    setup_below(tmp_path).uninstall()
    assert "purge" not in capsys.readouterr().out


def test_the_lock_is_a_file_of_its_own_that_only_root_can_hold(tmp_path: Path):
    """It is not in /run/lock, where every user can put a link or a file; a link is not followed."""
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
