"""A store killed, or failed by its disk, at every system call of the sweep: the old or the new release is active
afterwards.

The sweep installs and activates version 2 while version 1 is active. Where strace cannot run, the process is killed
after seeded random times instead.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from edge_agent.store.bundle_store import Store
from edge_agent.store.state_database import StateDatabase
from tests.support.store_cases import GOLDEN, LIMITS, bundle, require_whole
from tests.support.strace import (
    QUICK_POINTS,
    SEED,
    WRITING,
    Point,
    failed_at,
    killed_at,
    needs_strace,
    points,
    sample,
    strace_works,
)

UPDATE = """
import sys
from pathlib import Path
from edge_agent.errors import EdgeAgentError
from edge_agent.store.bundle_store import Store, StoreLimits

state_dir, source = map(Path, sys.argv[1:])
try:
    store = Store.open(state_dir, StoreLimits(disk_reserve_bytes=0))
    installed, _ = store.install(source, allow_unsigned=True)
    store.set_active(installed.digest)
    store.close()
except EdgeAgentError as error:
    print(error.reason)
    sys.exit(3)
"""

TAKE_OVER = """
import sys
from pathlib import Path
from edge_agent.store.state_database import StateDatabase
StateDatabase(Path(sys.argv[1]), may_create=False).close()
"""
VERSION_1 = Path(__file__).parent.parent / "data" / "state-v1.db"


class Site:
    """A state directory where version 1 is active, to be copied for each point, and a version 2 to install."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.old = bundle(root / "old", "1.0.0", weights=b"base", golden=GOLDEN)
        self.new = bundle(root / "new", "2.0.0", weights=b"base", golden=GOLDEN + b"\n", tokenizer=b"t" * 70_000)
        assert 0 == self.update(root / "ready", self.old).returncode

    def fresh(self) -> Path:
        """Return a new copy of the state directory."""
        shutil.rmtree(self.root / "state", ignore_errors=True)
        return shutil.copytree(self.root / "ready", self.root / "state")

    def update(self, state_dir: Path, source: Path, *tracer: str) -> subprocess.CompletedProcess[str]:
        """Install and activate a bundle in a separate process."""
        command = [*tracer, sys.executable, "-B", "-c", UPDATE, str(state_dir), str(source)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def points(self, state_dir: Path) -> list[Point]:
        """Return each call of one undisturbed update as (call, number)."""
        return points(lambda *tracer: self.update(state_dir, self.new, *tracer), self.root / "log")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a site in an empty directory."""
    return Site(tmp_path)


def check(site: Site, state_dir: Path, allowed: tuple[str, ...]) -> str:
    """Open the store as the next start would, check its invariants, finish the update; return the version that was
    active."""
    store = Store.open(state_dir, LIMITS)
    active = store.active().get("pos")
    version = active.manifest.version if active else ""
    assert version in allowed
    require_whole(store, state_dir)
    installed, _ = store.install(site.new, allow_unsigned=True)
    store.set_active(installed.digest)
    assert "2.0.0" == store.active()["pos"].manifest.version
    previous = store.previous("pos")
    assert ("1.0.0" if "1.0.0" in allowed else None) == (previous.manifest.version if previous else None)
    store.close()
    return version


def kill_sweep(site: Site, points: list[Point]) -> Counter[str]:
    """Kill one update at each point; return how often each version was active afterwards."""
    outcomes: Counter[str] = Counter()
    for call, number in points:
        state_dir = site.fresh()
        killed = site.update(state_dir, site.new, *killed_at(call, number))
        assert killed.returncode != 0, (call, number)
        outcomes[check(site, state_dir, ("1.0.0", "2.0.0"))] += 1
    return outcomes


def error_sweep(site: Site, points: list[Point], error: str) -> Counter[str]:
    """Fail one call at each point; return the reasons with which the updates ended ("" = it recovered)."""
    reasons: Counter[str] = Counter()
    for call, number in points:
        state_dir = site.fresh()
        done = site.update(state_dir, site.new, *failed_at(call, number, error))
        assert done.returncode in (0, 3), (call, number, done.stderr)
        reasons[done.stdout.strip()] += 1
        check(site, state_dir, ("1.0.0", "2.0.0"))
    return reasons


@pytest.mark.slow
@needs_strace
def test_kill_at_sampled_points_leaves_the_old_or_the_new_release(site: Site) -> None:
    """After a kill at a sampled call, the old or the new release is active, and the same update then succeeds."""
    outcomes = kill_sweep(site, sample(site.points(site.fresh())))
    assert {"1.0.0", "2.0.0"} >= outcomes.keys()


@needs_strace
@pytest.mark.release
def test_kill_at_every_point_leaves_the_old_or_the_new_release(site: Site) -> None:
    """After a kill at any call of the sweep, the old or the new release is active; both occur."""
    outcomes = kill_sweep(site, site.points(site.fresh()))
    assert {"1.0.0", "2.0.0"} == outcomes.keys()


@pytest.mark.slow
@needs_strace
def test_a_kill_during_the_first_start_leaves_a_store_that_opens(site: Site) -> None:
    """After a kill between the creation of the directory and the first active bundle, the store opens."""
    for call, number in sample(site.points(site.root / "first")):
        shutil.rmtree(site.root / "first", ignore_errors=True)
        killed = site.update(site.root / "first", site.new, *killed_at(call, number))
        assert killed.returncode != 0, (call, number)
        check(site, site.root / "first", ("", "2.0.0"))


@pytest.mark.slow
@needs_strace
def test_kill_during_a_database_migration_loses_nothing(tmp_path: Path) -> None:
    """After a kill during the migration of a database of version 1, the next start finds the same bundles."""
    old, place = tmp_path / "old.db", tmp_path / "state.db"
    shutil.copyfile(VERSION_1, old)

    def take_over(*tracer: str) -> subprocess.CompletedProcess[str]:
        for left in tmp_path.glob("state.db*"):
            left.unlink()
        shutil.copyfile(old, place)
        command = [*tracer, sys.executable, "-B", "-c", TAKE_OVER, str(place)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    every = points(take_over, tmp_path / "log")
    assert len(every) > 5
    for call, number in sample(every, 8):
        assert 0 != take_over(*killed_at(call, number)).returncode
        state = StateDatabase(place, may_create=False)
        assert ["3.0.0", "1.2.0", "1.1.0", "1.0.0"] == [name.version for name in state.names()]
        assert {"other", "pos"} == state.pointers().keys()
        state.close()


@needs_strace
@pytest.mark.release
@pytest.mark.parametrize(("error", "named"), [("EIO", "STATE_DIR_UNWRITABLE"), ("ENOSPC", "DISK_FULL")])
def test_failing_disk_leaves_the_old_or_the_new_release(site: Site, error: str, named: str) -> None:
    """If one write or sync fails, the update ends with an error and the old or the new release. Only the checkpoint
    after the last commit can fail unnoticed, and a write for which the ballast has space."""
    every = [point for point in site.points(site.fresh()) if point[0] in WRITING]
    reasons = error_sweep(site, every, error)
    assert {"", "STORE_DAMAGED", named} == reasons.keys()
    assert reasons[""] < len(every) / 2


@pytest.mark.skipif(strace_works(), reason="the sweep with strace is exact")
def test_kill_at_random_times_leaves_the_old_or_the_new_release(site: Site) -> None:
    """After a kill at a random time, the old or the new release is active. Replaces the sweep where strace cannot
    run."""
    rng = random.Random(SEED)
    for _ in range(QUICK_POINTS):
        state_dir = site.fresh()
        command = [sys.executable, "-B", "-c", UPDATE, str(state_dir), str(site.new)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                process.wait(timeout=rng.uniform(0.1, 0.4))
            except subprocess.TimeoutExpired:
                process.kill()
        check(site, state_dir, ("1.0.0", "2.0.0"))
