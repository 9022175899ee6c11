"""What a site remembers, spoilt; time that it slept through; clocks that jump; and versions that somebody ran up."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.updating.tally import Tally
from tests.support.fleet_site import TASK, comes_true
from tests.support.hostile_incoming import arrived, believes, lay, refuses
from tests.support.repository_attacks import AttackedRepository
from tests.support.update_sites import NEW, OLD, UpdateSites, wanted
from tests.support.wall_clock import WallClock

YEAR = 365 * 86_400


def measure(field: UpdateSites, tally: Tally) -> None:
    """Spoil what a site remembers, and the time that it slept."""
    for name, spoil in {"deleted": _deleted, "zeroed": _zeroed}.items():
        with field.site() as site:
            lay(site, field.central.copy(field.root / "honest"))
            site.until(NEW)
            site.daemon.stop()
            spoil(site.daemon.state_dir / "trust")
            lay(site, Path(shutil.copytree(field.before, field.root / "older")))
            site.daemon.start(TASK)
            refused = refuses(site) and site.version() == NEW
            site.start_uplink()
            tally.add(f"attack: rollback, cache {name}", served=refused, converged=comes_true(lambda: believes(site)))
    for fault in (_another_site, _ran_up, _slept):
        fault(field, tally)


def measure_clock(field: UpdateSites, tally: Tally) -> None:
    """Let the clock be 12 years ahead, and at the beginning of time; then right again."""
    clock = WallClock(field.root)
    for name, years in {"2038": 12, "1970": -56}.items():
        with field.site() as site:
            site.daemon.stop()
            clock.jump(years * YEAR)
            site.daemon.environment |= clock.environment
            site.daemon.start(TASK)
            site.start_uplink()
            # Long ago nothing has expired, and what was signed says that it is later.
            served = refuses(site) and site.version() == OLD if years > 0 else site.version() in (OLD, NEW)
            clock.jump(0)
            tally.add(f"clock in {name}", served=served, converged=comes_true(lambda: arrived(site, NEW)))


def _another_site(field: UpdateSites, tally: Tally) -> None:
    offered = field.central.offering(field.new)
    with field.site() as site:
        plan = field.central.plan(
            offered.model_copy(update={"channels": {}, "sites": {"shop-2": offered.channels["stable"]}})
        )
        site.start_uplink()
        left_alone = comes_true(lambda: site.updates().plan_version == plan.version) and site.version() == OLD
        wanted(field.central, field.new)
        tally.add("a plan for another site", served=left_alone, converged=comes_true(lambda: arrived(site, NEW)))


def _ran_up(field: UpdateSites, tally: Tally) -> None:
    """With a stolen online key: versions so high that the central team's own look old. A new key starts them again."""
    with field.site() as site:
        hostile = AttackedRepository(field.central, field.central.copy(field.root / "hostile"), field.before)
        stamp = hostile.read("timestamp")
        stamp.signed.version = 10**6
        hostile.sign("timestamp", stamp)
        lay(site, hostile.folder)
        site.until(NEW)
        wanted(field.central, field.old)
        lay(site, field.central.copy(field.root / "honest"))
        stuck = refuses(site) and site.version() == NEW
        field.central.rotate("online", restart_versions=True)
        lay(site, field.central.copy(field.root / "honest"))
        tally.add("attack: versions run up", served=stuck, converged=comes_true(lambda: arrived(site, OLD)))
    wanted(field.central, field.new)


def _slept(field: UpdateSites, tally: Tally) -> None:
    with field.site() as site:
        site.daemon.stop()
        for _ in range(5):
            field.central.rotate_root()
        site.daemon.start(TASK)
        served = site.version() == OLD
        site.start_uplink()
        tally.add("root rotated 5 times", served=served, converged=comes_true(lambda: arrived(site, NEW)))


def _deleted(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _zeroed(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
