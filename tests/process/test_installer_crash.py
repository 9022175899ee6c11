"""An upgrade that is killed leaves the old or the new program, and the same command continues from there."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.support.installer_cases import Site, installer, needs_pip
from tests.support.strace import killed_at, needs_strace, sample, strace

pytestmark = [needs_pip, needs_strace, pytest.mark.release]
# What changes names: between two of these calls the disk shows one state.
CALLS = ("rename", "symlink", "mkdir", "unlink", "fsync")


@pytest.fixture
def upgrade(tmp_path: Path) -> tuple[Site, Path, Path]:
    """Return a site with version 1.0, a copy of it, and the installer file of 2.0."""
    site, pristine = Site(tmp_path / "root"), tmp_path / "pristine"
    assert 0 == site.run(installer(tmp_path, "1.0")).returncode
    subprocess.run(["cp", "-a", site.root, pristine], check=True)
    return site, pristine, installer(tmp_path, "2.0", {"systemd/edge-uplink.service": "[Unit]\n"})


def restore(site: Site, pristine: Path) -> None:
    shutil.rmtree(site.root)
    subprocess.run(["cp", "-a", pristine, site.root], check=True)


def points(site: Site, file: Path, log: Path) -> list[tuple[str, int]]:
    """Return each call of an undisturbed upgrade: of the shell, of setup, of pip."""
    done = site.run(file, before=[*strace(f"trace={','.join(CALLS)}"), "-o", str(log)])
    assert 0 == done.returncode, done.stderr
    counts = Counter(re.findall(r"^(\d+) +(\w+)\(", log.read_text(), re.MULTILINE))
    most = {call: max(count for (_, name), count in counts.items() if name == call) for call in CALLS}
    return [(call, number) for call in CALLS for number in range(1, most[call] + 1)]


def test_killed_upgrade_leaves_the_old_or_the_new_program(upgrade: tuple[Site, Path, Path], tmp_path: Path):
    """After a kill at a call that changes names, the old or the new program runs, and the same installer file completes
    the upgrade."""
    site, pristine, file = upgrade
    ends = Counter()
    every = points(site, file, tmp_path / "calls")
    for call, number in sample(every, 10):
        restore(site, pristine)
        killed = site.run(file, before=killed_at(call, number))
        ends[site.version()] += 1
        assert site.version() in ("edge-agent 1.0", "edge-agent 2.0"), f"{call} {number}: {killed.stderr}"
        again = site.run(file)
        assert (0, "edge-agent 2.0") == (again.returncode, site.version()), f"{call} {number}: {again.stderr}"
        assert 2 == len(site.programs()), f"{call} {number}"
        assert (site.root / "etc/systemd/system/edge-uplink.service").exists()
    assert ends["edge-agent 1.0"]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_killed_rollback_leaves_one_of_both_programs(upgrade: tuple[Site, Path, Path], number: int):
    """After a kill at any rename of a rollback, one of the two programs runs, and status succeeds."""
    site, _, file = upgrade
    assert 0 == site.run(file).returncode
    command = [*killed_at("rename", number), str(site.root / "usr/local/sbin/edge-agent-setup"), "rollback"]
    subprocess.run(command, capture_output=True, check=False)
    assert site.version() in ("edge-agent 1.0", "edge-agent 2.0")
    assert 0 == site.setup("status").returncode
