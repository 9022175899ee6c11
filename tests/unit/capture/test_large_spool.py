"""A spool of a million examples: memory stays constant, and due rows are found without reading all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.queued_examples import GROWTH_MIB_MAX, TEXT, counted_steps, fill
from tests.support.site_cases import SiteCase, answered


@pytest.mark.release
def test_memory_is_constant_for_a_million_examples(tmp_path: Path):
    """Between 20,000 and a million examples neither memory nor the number of database steps grows, also while a segment
    is sealed and the queue is read."""
    filled = fill(tmp_path, 1_000_000)
    assert 1_000_000 == filled.kept
    assert filled.growth_mib < GROWTH_MIB_MAX
    assert 0 < filled.steps < 1.5 * filled.early_steps


def test_no_step_of_a_segment_reads_every_example(tmp_path: Path):
    """Choosing, sealing, receiving and losing a segment find its examples by an index."""
    site = SiteCase(tmp_path, segment_bytes_max=2**16)
    worker, database = site.worker, site.worker.spool.db
    made = worker.recorder.build_prediction(answered(0, text=TEXT), 0.0)
    with worker.spool.transaction():
        worker.store_predictions([replace(made, prediction_id=f"p-{number}") for number in range(300)])
    said: list[str] = []
    database._db.set_trace_callback(said.append)
    assert worker.outbox
    first, second = worker.outbox.seal_segment(0.0), worker.outbox.seal_segment(0.0)
    with worker.spool.transaction():
        worker.outbox.ledger.mark_received([first])
        worker.outbox.ledger.mark_lost(second)
    database._db.set_trace_callback(None)
    asked = [each for each in said if each.lstrip().startswith(("SELECT", "UPDATE", "DELETE"))]
    plans = {each: [step for *_, step in database.rows(f"EXPLAIN QUERY PLAN {each}")] for each in asked}
    assert (1, 2) == (first, second)
    assert [] == [each for each, steps in plans.items() if "SCAN predictions" in steps]
    assert any("USING INDEX sealed" in step for steps in plans.values() for step in steps)


def test_idle_housekeeping_does_not_read_every_digest(tmp_path: Path):
    """Idle housekeeping finds due digests by the oldest one, without reading all."""
    site, steps = SiteCase(tmp_path), list[int]()
    for number in (100, 20_000):
        with site.worker.spool.transaction():
            digests = (f"{number}-{each}".encode() for each in range(number))
            site.worker.spool.personal.add_digests([(f"p-{number}", digests)], site.worker.spool.clock)
        site.clock.running += 20
        with counted_steps(site.worker) as counted:
            site.worker.do_housekeeping()
        steps.append(counted())
    assert steps[1] < steps[0] + 10
