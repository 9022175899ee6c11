"""Faults that the central team has to see through: a machine installed again under its old id, and a hostile uplink."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.carrying.tally import Tally
from convert.fleet.site_registry import FILE_NAME, SiteRegistry
from edge_agent.formats.segment import name_of
from tests.support.delivery_path import DeliveryPath, Outcome
from tests.support.hostile_uplink import HostileWorld

WORLDS, ROUNDS = 10, 10
ACCEPT = re.compile("sites accept site-1 ([0-9a-f]{64})")


def measure(root: Path, tally: Tally) -> None:
    """Inject both."""
    kind = "reinstalled with the same site id"
    tally.add(kind, 1, _reinstalled(DeliveryPath(root / "collected"), DeliveryPath.settle), wanted=1)
    tally.add(kind, 1, _reinstalled(DeliveryPath(root / "carried"), DeliveryPath.once), wanted=1)
    found = _reinstalled(DeliveryPath(root / "cut"), _once_without_the_last)
    # What the lost machine alone had is gone with it; the central team names that segment.
    tally.add(kind, 1, Outcome() if found == Outcome(1, 0, 1) else found)
    for seed in range(WORLDS):
        world = HostileWorld(root / f"world-{seed}", seed)
        for _ in range(ROUNDS):
            world.round()
        report = world.end()
        missing = sum(gap.last <= world.site.sequence for gap in report.gaps)
        injected = world.faults.total() - world.faults["none"]
        tally.add("hostile uplink", injected, Outcome(len(world.lost()), world.doubled(), missing), wanted=ROUNDS // 2)


def _reinstalled(way: DeliveryPath, carry: Callable[[DeliveryPath], object]) -> Outcome:
    """Install a machine again after it carried; the key that the central team saw second has to be accepted."""
    way.answer(2)
    carry(way)
    way.reinstall()
    way.answer(2)
    way.once()
    [key] = {found[1] for each in way.collect().refused if (found := ACCEPT.search(each.why))}
    SiteRegistry(way.central.out / FILE_NAME).accept("site-1", key)
    return way.settle()


def _once_without_the_last(way: DeliveryPath) -> None:
    """Carry, and lose the last segment on its way; the status object that names it arrives."""
    way.once()
    way.answer(1)
    way.once()
    for key in way.uploaded():
        if name_of(way.site.worker.spool.incarnation, 2) in key:
            way.remove(key)
    way.collect()
