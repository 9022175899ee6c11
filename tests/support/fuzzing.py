"""Hypothesis as a source of many cases, whose outcome is counted instead of ending the run at the first defect."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

Case = TypeVar("Case")
AT_ONCE = 500
"""Hypothesis remembers what it has made; beyond that it starts anew, with another seed, so as not to grow."""


def each_of(cases: st.SearchStrategy[Case], count: int, begin: int, do: Callable[[Case], None]) -> int:
    """Run a check on that many cases, the same ones for the same `begin`; return their number.

    A strategy may have fewer than that: then some come again.
    """
    done = 0
    for chunk in range(begin, begin + -(-count // AT_ONCE)):
        wanted = min(AT_ONCE, count - done)

        def one(case: Case) -> None:
            nonlocal done
            done += 1
            do(case)

        _chunk(cases, wanted, chunk, one)
    return done


def _chunk(cases: st.SearchStrategy[Case], count: int, number: int, do: Callable[[Case], None]) -> None:
    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )
    @given(cases)
    def each(case: Case) -> None:
        do(case)

    each()
