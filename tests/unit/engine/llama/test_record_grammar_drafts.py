"""Drafted tokens of records: which tokens are predicted from earlier records."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.record_grammar import CONTEXTS_MAX, DRAFT_MAX, ORDER, RecordDrafts

RECORD = list(range(100, 100 + 2 * DRAFT_MAX))
SEEN_OFTEN = 12


def test_draft_grows_with_repetitions() -> None:
    """Tokens seen once give a draft of one token; each repetition makes the draft longer, up to DRAFT_MAX and to the
    requested number."""
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


def test_unseen_tokens_are_not_drafted() -> None:
    """Nothing is drafted after unseen tokens, after too few tokens, or for tokens before the record itself starts."""
    drafts = RecordDrafts()
    drafts.learn(RECORD, 5)
    assert drafts.draft_after(RECORD[:ORDER]) == []
    assert drafts.draft_after([7, 8, 9]) == drafts.draft_after([]) == drafts.draft_after(RECORD[6:7]) == []
    assert drafts.draft_after(RECORD[2:5]) == [RECORD[5]]


def test_changed_continuation_replaces_the_old_one() -> None:
    """When another token follows a context often enough, it is drafted instead of the earlier one."""
    drafts = RecordDrafts()
    for _ in range(SEEN_OFTEN):
        drafts.learn([1, 2, 3, 4], 3)
    assert drafts.draft_after([1, 2, 3]) == [4]
    for _ in range(SEEN_OFTEN):
        drafts.learn([1, 2, 3, 5], 3)
    assert drafts.draft_after([1, 2, 3]) == [5]


def test_unpredictable_token_is_not_drafted() -> None:
    """A token that would be right one time in ten is not drafted."""
    drafts = RecordDrafts()
    for turn in range(100):
        drafts.learn([1, 2, 3, 10 + turn % 10, 4], 3)
    assert drafts.draft_after([1, 2, 3]) == []


def test_lone_row_gets_a_draft_only_if_it_is_likely_right() -> None:
    """A continuation that was seen once is drafted next to other rows but not for a row that is computed alone; after
    repetitions it is drafted there, too."""
    drafts = RecordDrafts()
    drafts.learn([1, 2, 3, 4], 3)
    assert ([4], []) == (drafts.draft_after([1, 2, 3]), drafts.draft_after([1, 2, 3], alone=True))
    for _ in range(SEEN_OFTEN):
        drafts.learn([1, 2, 3, 4], 3)
    assert [4] == drafts.draft_after([1, 2, 3], alone=True)


def test_varying_token_is_not_drafted_until_it_repeats() -> None:
    """Where a different token follows each time, the last one is drafted only after it was repeated."""
    drafts = RecordDrafts()
    for token in range(10, 16):
        drafts.learn([1, 2, 3, token], 3)
    assert drafts.draft_after([1, 2, 3]) == []
    for _ in range(3):
        drafts.learn([1, 2, 3, 15], 3)
    assert drafts.draft_after([1, 2, 3]) == [15]


def test_draft_memory_is_bounded() -> None:
    """Beyond CONTEXTS_MAX contexts, the oldest are dropped, however many different records are learned."""
    drafts = RecordDrafts()
    drafts.learn([1, 2, 3, 4], 3)
    drafts.learn(range(10, 10 + CONTEXTS_MAX + ORDER), 0)
    assert drafts.draft_after([1, 2, 3]) == []
    assert drafts.draft_after(range(10, 13)) == [13]
    assert len(drafts._next) == CONTEXTS_MAX


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), max_size=20), st.lists(st.integers(0, 3)))
def test_draft_consists_of_seen_windows(records: list[list[int]], tokens: list[int]) -> None:
    """Every window of ORDER + 1 tokens in a draft occurred in a learned record, and all stored probabilities stay
    between 0 and 1."""
    drafts = RecordDrafts()
    for record in records:
        drafts.learn(record, 0)
    seen = {tuple(record[at : at + ORDER + 1]) for record in records for at in range(len(record) - ORDER)}
    draft = drafts.draft_after(tokens)
    whole = [*tokens[-ORDER:], *draft]
    assert {tuple(whole[at : at + ORDER + 1]) for at in range(len(draft))} <= seen
    assert len(draft) <= DRAFT_MAX
    assert all(0 <= chance <= 1 for _, chance in drafts._next.values())
