"""Gaps, breaks and receipts follow from the segments that are held, checked against plain sets for any choice of
segments."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from convert.collect import receipts
from convert.collect.record_files import SegmentEntry
from edge_agent.formats.segment import RefusedSegment

EPOCH = "0123456789abcdef"
some_numbers = st.sets(st.integers(1, 30))


def named(branch: str, number: int) -> str:
    """Return a stand-in for the SHA-256 of a manifest."""
    return f"{branch}{number:063x}"


def entry(number: int, branch: str = "a", **changes) -> SegmentEntry:
    """Return a segment of an unbroken chain."""
    plain = {
        "site": "site-1",
        "epoch": EPOCH,
        "sequence": number,
        "manifest_sha256": named(branch, number),
        "previous": named(branch, number - 1) if number > 1 else "",
        "size_bytes": 1,
        "records": 1,
    }
    return SegmentEntry(**{**plain, **changes})


def numbers_of(first: int, last: int) -> set[int]:
    return set(range(first, last + 1))


@given(held=some_numbers, highest=st.integers(0, 35), known=st.dictionaries(st.integers(1, 35), st.sampled_from("xy")))
def test_every_number_is_held_or_in_one_gap(held: set[int], highest: int, known: dict[int, str]):
    """Each number up to the highest one is held or in exactly one gap, with its known reason."""
    found = receipts.gaps("site-1", EPOCH, [entry(number) for number in held], highest, known)
    listed = [number for gap in found for number in range(gap.first, gap.last + 1)]
    last = max([highest, *held], default=0)
    assert sorted((numbers_of(1, last) | known.keys()) - held) == listed
    for gap in found:
        assert all(known.get(number, receipts.NOT_ARRIVED) == gap.why for number in numbers_of(gap.first, gap.last))


@given(held=some_numbers)
def test_receipts_cover_exactly_the_held_segments(held: set[int]):
    """The ranges are exactly the held numbers, each with the manifest of its last segment."""
    made = receipts.epoch_receipts(EPOCH, [entry(number) for number in held], [])
    assert held == {number for each in made.received for number in numbers_of(each.first, each.last)}
    assert all(each.manifest_sha256 == named("a", each.last) for each in made.received)
    assert all(each.last + 1 not in held for each in made.received)


def test_fork_has_a_range_for_each_branch():
    """Both ranges include the common segments, and a site recognizes its own range by the last manifest."""
    trunk = [entry(1), entry(2)]
    other = [entry(3, "b", previous=named("a", 2)), entry(4, "b")]
    made = receipts.epoch_receipts(EPOCH, [*trunk, entry(3), *other], [])
    assert [(1, 3, named("a", 3)), (1, 4, named("b", 4))] == [
        (each.first, each.last, each.manifest_sha256) for each in made.received
    ]
    assert [(3, "arrived 2 times with different content")] == [
        (each.sequence, each.why) for each in receipts.breaks([*trunk, entry(3), *other])
    ]


def test_resealed_segments_are_not_missing():
    """A later segment that repeats earlier ones closes their gaps."""
    assert [] == receipts.gaps("site-1", EPOCH, [entry(1), entry(4, reseals=(2, 3))], 4, {2: "was refused"})


def test_first_segment_with_a_predecessor_is_a_break():
    """A first segment whose manifest names a predecessor breaks the chain."""
    assert ["does not continue the segment before it"] == [
        each.why for each in receipts.breaks([entry(1, previous=named("a", 0))])
    ]


def test_receipts_list_refused_segments_in_order():
    """Refused segments are sorted by number."""
    told = [RefusedSegment(sequence=number, manifest_sha256="ab" * 32, why="is damaged") for number in (5, 3)]
    assert [3, 5] == [each.sequence for each in receipts.epoch_receipts(EPOCH, [], told).refused]
