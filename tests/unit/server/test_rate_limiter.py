"""How often a client may call: on average and at once, each by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.server.admission_control import CLIENTS_MAX, RateLimiter

GAPS = st.lists(st.floats(0, 10), min_size=1, max_size=200)


def taken(rates: RateLimiter, gaps: list[float]) -> list[float]:
    """Call after each of these pauses; return when calls were taken."""
    now, at = 0.0, []
    for gap in gaps:
        now += gap
        if rates.take("till-3", now) == 0:
            at.append(now)
    return at


@given(gaps=GAPS, per_second=st.floats(0.01, 50), burst=st.integers(1, 20))
def test_no_span_of_time_has_more_than_it_may(gaps: list[float], per_second: float, burst: int) -> None:
    """In any span of T seconds at most burst + rate x T calls are taken."""
    at = taken(RateLimiter(per_second, burst), gaps)
    for first in range(len(at)):
        for last in range(first, len(at)):
            assert last - first + 1 <= burst + per_second * (at[last] - at[first]) + 1e-6


@given(gaps=GAPS, per_second=st.floats(0.01, 50), burst=st.integers(1, 20))
def test_the_delay_is_enough_and_not_too_long(gaps: list[float], per_second: float, burst: int) -> None:
    """Who waits as long as it is told is taken, and who comes well before is not."""
    rates, now = RateLimiter(per_second, burst), 0.0
    for gap in gaps:
        now += gap
        delay = rates.take("till-3", now)
        if delay:
            assert delay <= 1 / per_second
            assert rates.take("till-3", now + delay * 0.9) > 0
            assert rates.take("till-3", now + delay * 1.001) == 0
            now += delay * 1.001


@given(gaps=GAPS)
def test_who_keeps_to_the_rate_is_always_taken(gaps: list[float]) -> None:
    """One call a second, or less."""
    rates = RateLimiter(1, 1)
    assert len(gaps) == len(taken(rates, [gap + 1.001 for gap in gaps]))


def test_clients_do_not_share() -> None:
    """One that has used up its calls takes none from another."""
    rates = RateLimiter(1, 3)
    assert [0, 0, 0] == [rates.take("noisy", 0) for _ in range(3)]
    assert rates.take("noisy", 0) > 0
    assert 0 == rates.take("quiet", 0)


def test_without_a_limit_there_is_none() -> None:
    """And nobody is remembered."""
    rates = RateLimiter(0, 1)
    assert {0.0} == {rates.take("noisy", 0) for _ in range(1000)}
    assert not rates._buckets


def test_the_table_of_clients_is_bounded() -> None:
    """Who called longest ago is forgotten when that costs it nothing, and begins anew."""
    rates = RateLimiter(1, 1)
    for number in range(CLIENTS_MAX + 100):
        rates.take(str(number), number)
    assert CLIENTS_MAX == len(rates._buckets)
    assert 0 == rates.take("0", CLIENTS_MAX + 100)


def test_nobody_is_forgotten_before_its_bucket_is_full() -> None:
    """While no bucket can be given up, new clients share one; who has used up its calls does not begin anew."""
    rates = RateLimiter(0.001, 2)
    for number in range(CLIENTS_MAX):
        rates.take(str(number), 0)
    rates.take("0", 0)
    taken = [name for name in range(10_000, 20_000) if rates.take(str(name), 1) == 0]
    assert [10_000, 10_001] == taken
    assert rates.take("0", 1) > 0
    assert CLIENTS_MAX + 1 == len(rates._buckets)
    assert 0 == rates.take("new", 3000)
