"""An uplink that flips, cuts, deletes, swaps, invents and forges loses no correction and doubles none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.hostile_uplink import World

ROUNDS = 6


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_hostile_uplink_loses_nothing(tmp_path: Path, seed: int):
    """After all it did, what the site still has and what arrived are together everything that was sealed, once."""
    world = World(tmp_path, seed)
    for _ in range(ROUNDS):
        world.round()
    report = world.end()
    assert (set(), 0) == (world.lost(), world.doubled())
    assert [] == [gap for gap in report.gaps if gap.last <= world.site.sequence]
    assert "p-10000" not in {name for (name,) in world.central.query("SELECT prediction_id FROM records")}


def test_receipts_signed_by_another_delete_nothing(tmp_path: Path):
    """The forgery alone: the site keeps everything."""
    world = World(tmp_path, 0)
    world._seal()
    before = sorted(world.outbox.iterdir())
    world._forge()
    assert before == sorted(world.outbox.iterdir())
