"""An untrusted uplink that flips, truncates, deletes, swaps, invents and forges files loses no correction and
duplicates none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.hostile_uplink import HostileWorld

ROUNDS = 6


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_hostile_uplink_loses_no_example(tmp_path: Path, seed: int):
    """After all manipulations, the site and the central team together have every sealed example exactly once."""
    world = HostileWorld(tmp_path, seed)
    for _ in range(ROUNDS):
        world.round()
    report = world.end()
    assert (set(), 0) == (world.lost(), world.doubled())
    assert [] == [gap for gap in report.gaps if gap.last <= world.site.sequence]
    assert "p-10000" not in {name for (name,) in world.central.query("SELECT prediction_id FROM records")}


def test_receipt_with_a_foreign_signature_deletes_nothing(tmp_path: Path):
    """A site deletes no segment because of a receipt that another key signed."""
    world = HostileWorld(tmp_path, 0)
    world._seal()
    before = sorted(world.outbox.iterdir())
    world._forge()
    assert before == sorted(world.outbox.iterdir())
