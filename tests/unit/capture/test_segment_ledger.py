"""Which records a segment gets: order, size and sample, and what happens to them afterwards."""

from __future__ import annotations

import pytest

from edge_agent.capture.segment_ledger import is_in_routine_sample
from edge_agent.errors import StoreDamaged
from tests.support.site_cases import SiteCase, answered, judgement

SURE = {"confidence": 0.95, "sure": True}


@pytest.fixture
def site(tmp_path) -> SiteCase:
    return SiteCase(tmp_path, segment_bytes_max=2**16)


def choose(site: SiteCase, bytes_max: int) -> list[str]:
    """Choose a segment; return the ids of its records."""
    with site.worker.spool.transaction():
        sequence = site.worker.outbox.ledger.assign_records(bytes_max)
    lines = site.worker.outbox.ledger.record_lines(sequence) if sequence else ()
    return [line.split(b'"record_id":"')[1].split(b'"')[0].decode() for line in lines]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_sample_has_the_size_of_its_share(share):
    """The sample is drawn by the id alone, so the same answer is always in or always out."""
    drawn = [number for number in range(10_000) if is_in_routine_sample(f"p-{number}", share)]
    assert abs(len(drawn) - 10_000 * share) < 200
    assert drawn == [number for number in range(10_000) if is_in_routine_sample(f"p-{number}", share)]


def test_larger_share_contains_the_smaller_one():
    """Raising the share removes nothing from the sample."""
    small = {number for number in range(1000) if is_in_routine_sample(f"p-{number}", 0.1)}
    assert small <= {number for number in range(1000) if is_in_routine_sample(f"p-{number}", 0.3)}


def test_feedback_goes_before_everything_else(site):
    """With space for one record, a correction is sealed first, however late it came."""
    site.keep(*(answered(n) for n in range(5)))
    site.worker.seal_all()
    site.keep(*(answered(n) for n in range(5, 50)))
    site.judge(judgement(2))
    assert ["feedback:f-2"] == choose(site, 1)


def test_oldest_answers_are_sealed_first(site):
    """A segment gets as many answers as fit, in order of age."""
    site.keep(*(answered(n) for n in range(50)))
    first = choose(site, 5000)
    assert [f"prediction:p-{n}" for n in range(len(first))] == first
    assert 1 < len(first) < 50


def test_damage_found_while_sealing_raises_store_damaged(site):
    """Damage that is found by counting or reading records raises StoreDamaged with the file."""
    ledger, db = site.worker.outbox.ledger, site.worker.spool.db
    site.keep(answered(1))
    with site.worker.spool.transaction():
        sequence = ledger.assign_records(10**6)
    db.execute("DROP TABLE opinions")
    for read in (lambda: ledger.waiting_bytes(10**6), lambda: list(ledger.record_lines(sequence))):
        with pytest.raises(StoreDamaged, match=r"spool\.db"):
            read()


def test_empty_sample_uses_no_segment_number(tmp_path):
    """If the sample is empty, no segment number is used, so numbers have no gap."""
    site = SiteCase(tmp_path, routine_share=0.0)
    site.keep(*(answered(n, **SURE) for n in range(20)))
    assert [] == choose(site, 10**6)
    assert 1 == site.worker.outbox.ledger.next_sequence()
    assert 20 == site.worker.spool.counters["passed_over"]


def test_segment_number_of_erased_records_is_reused(site):
    """If all records of a chosen segment are erased before it is written, its number is reused: no empty segment, no
    gap."""
    site.keep(answered(1))
    assert ["prediction:p-1"] == choose(site, 10**6)
    site.worker.spool.db.execute("DELETE FROM predictions")
    site.reopen()
    assert 0 == site.worker.seal_all()
    site.keep(answered(2))
    site.worker.seal_all()
    assert {1} == set(site.segments())
