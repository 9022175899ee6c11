"""What happens over and over: told once, then counted."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.log_deduplication import KINDS_MAX, WINDOW_SECONDS, LogDeduplicator


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 50)), max_size=200))
def test_nothing_is_lost_and_little_is_told(events: list[tuple[str, float]]) -> None:
    """What is told and what is counted add up to what happened; of one kind there are two lines a window at most."""
    repeats, now = LogDeduplicator("others"), 0.0
    told: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for kind, gap in events:
        now += gap
        counted = repeats.due(now)
        told.update(dict(counted))
        lines.update(kind for kind, _ in counted)
        if repeats.first(kind, now):
            told[kind] += 1
            lines[kind] += 1
    told.update(dict(repeats.rest()))
    assert Counter(kind for kind, _ in events) == told
    assert all(count <= 2 * (1 + now / WINDOW_SECONDS) for count in lines.values())


def test_the_table_of_kinds_is_bounded() -> None:
    """Those that find no place are counted together."""
    repeats = LogDeduplicator("others")
    first = [repeats.first(str(number), 0) for number in range(KINDS_MAX + 10)]
    assert [True] * (KINDS_MAX + 1) + [False] * 9 == first
    assert [("others", 9)] == repeats.rest()
    assert [] == repeats.rest()


def test_after_its_window_a_kind_is_told_again() -> None:
    """Once it was counted out."""
    repeats = LogDeduplicator("others")
    assert [True, False] == [repeats.first("a", 0), repeats.first("a", 1)]
    assert [] == repeats.due(WINDOW_SECONDS - 1)
    assert [("a", 1)] == repeats.due(WINDOW_SECONDS)
    assert repeats.first("a", WINDOW_SECONDS)
