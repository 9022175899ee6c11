"""edge_agent/engine/runtimes/llama/record_grammar.py."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.record_grammar import CONTEXTS_MAX, DRAFT_MAX, ORDER, RecordDrafts

RECORD = list(range(100, 100 + 2 * DRAFT_MAX))
SEEN_OFTEN = 12


def test_what_came_again_and_again_is_drafted() -> None:
    """From the first time on a little, with every time further, and never more than is asked for."""
    drafts, lengths = RecordDrafts(), list[int]()
    for _ in range(SEEN_OFTEN):
        drafts.learn(RECORD, 0)
        draft = drafts.draft_after(RECORD[:ORDER])
        assert draft == RECORD[ORDER : ORDER + len(draft)]
        lengths.append(len(draft))
    assert lengths == sorted(lengths)
    assert (1, DRAFT_MAX) == (lengths[0], lengths[-1])
    assert drafts.draft_after(RECORD[:ORDER], 2) == RECORD[ORDER : ORDER + 2]
    assert drafts.draft_after(RECORD[:ORDER], 0) == []


def test_what_was_never_seen_is_not_drafted() -> None:
    """Nor what a record stands behind, as far as it is no record; nor anything behind too few tokens."""
    drafts = RecordDrafts()
    drafts.learn(RECORD, 5)
    assert drafts.draft_after(RECORD[:ORDER]) == []
    assert drafts.draft_after([7, 8, 9]) == drafts.draft_after([]) == drafts.draft_after(RECORD[6:7]) == []
    assert drafts.draft_after(RECORD[2:5]) == [RECORD[5]]


def test_a_habit_that_changes_is_unlearnt() -> None:
    """What has become rare is not tried any more; what has come in its place is."""
    drafts = RecordDrafts()
    for _ in range(SEEN_OFTEN):
        drafts.learn([1, 2, 3, 4], 3)
    assert drafts.draft_after([1, 2, 3]) == [4]
    for _ in range(SEEN_OFTEN):
        drafts.learn([1, 2, 3, 5], 3)
    assert drafts.draft_after([1, 2, 3]) == [5]


def test_what_goes_either_way_is_hardly_drafted() -> None:
    """A row that is right one time in ten is not worth its time."""
    drafts = RecordDrafts()
    for turn in range(100):
        drafts.learn([1, 2, 3, 10 + turn % 10, 4], 3)
    assert drafts.draft_after([1, 2, 3]) == []


def test_a_lone_row_gets_company_when_it_is_mostly_right() -> None:
    """What was seen once is worth a row beside others, and not twice the time of one; what comes again is."""
    drafts = RecordDrafts()
    drafts.learn([1, 2, 3, 4], 3)
    assert ([4], []) == (drafts.draft_after([1, 2, 3]), drafts.draft_after([1, 2, 3], alone=True))
    for _ in range(SEEN_OFTEN):
        drafts.learn([1, 2, 3, 4], 3)
    assert [4] == drafts.draft_after([1, 2, 3], alone=True)


def test_what_takes_a_place_has_to_earn_its_chance() -> None:
    """A place where something else stands each time is not drafted, whatever stood there last."""
    drafts = RecordDrafts()
    for token in range(10, 16):
        drafts.learn([1, 2, 3, token], 3)
    assert drafts.draft_after([1, 2, 3]) == []
    for _ in range(3):
        drafts.learn([1, 2, 3, 15], 3)
    assert drafts.draft_after([1, 2, 3]) == [15]


def test_memory_is_bounded_and_the_oldest_leaves() -> None:
    """However many different records there are."""
    drafts = RecordDrafts()
    drafts.learn([1, 2, 3, 4], 3)
    drafts.learn(range(10, 10 + CONTEXTS_MAX + ORDER), 0)
    assert drafts.draft_after([1, 2, 3]) == []
    assert drafts.draft_after(range(10, 13)) == [13]
    assert len(drafts._next) == CONTEXTS_MAX


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), max_size=20), st.lists(st.integers(0, 3)))
def test_a_draft_is_made_of_what_was_seen(records: list[list[int]], tokens: list[int]) -> None:
    """Every window of ORDER + 1 tokens in it stood in a record; chances stay chances."""
    drafts = RecordDrafts()
    for record in records:
        drafts.learn(record, 0)
    seen = {tuple(record[at : at + ORDER + 1]) for record in records for at in range(len(record) - ORDER)}
    draft = drafts.draft_after(tokens)
    whole = [*tokens[-ORDER:], *draft]
    assert {tuple(whole[at : at + ORDER + 1]) for at in range(len(draft))} <= seen
    assert len(draft) <= DRAFT_MAX
    assert all(0 <= chance <= 1 for _, chance in drafts._next.values())
