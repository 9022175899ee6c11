"""The rate of calls of each client, on average and in a burst."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.server.client_call_limits import CLIENTS_MAX, RateLimiter

GAPS = st.lists(st.floats(0, 10), min_size=1, max_size=200)


def taken(rates: RateLimiter, gaps: list[float]) -> list[float]:
    """Call after each of these pauses; return the times of accepted calls."""
    now, at = 0.0, []
    for gap in gaps:
        now += gap
        if rates.take("till-3", now) == 0:
            at.append(now)
    return at


@given(gaps=GAPS, per_second=st.floats(0.01, 50), burst=st.integers(1, 20))
def test_no_interval_exceeds_burst_and_rate(gaps: list[float], per_second: float, burst: int) -> None:
    """In any interval of T seconds at most burst + rate x T calls are accepted."""
    at = taken(RateLimiter(per_second, burst), gaps)
    for first in range(len(at)):
        for last in range(first, len(at)):
            assert last - first + 1 <= burst + per_second * (at[last] - at[first]) + 1e-6


@given(gaps=GAPS, per_second=st.floats(0.01, 50), burst=st.integers(1, 20))
def test_returned_delay_is_necessary_and_sufficient(gaps: list[float], per_second: float, burst: int) -> None:
    """A call after the returned delay is accepted; one well before it is not."""
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
def test_client_within_the_rate_is_always_accepted(gaps: list[float]) -> None:
    """A client with at most one call per second is never refused at that rate."""
    rates = RateLimiter(1, 1)
    assert len(gaps) == len(taken(rates, [gap + 1.001 for gap in gaps]))


def test_clients_have_separate_rates() -> None:
    """A client that has used up its calls does not affect another."""
    rates = RateLimiter(1, 3)
    assert [0, 0, 0] == [rates.take("noisy", 0) for _ in range(3)]
    assert rates.take("noisy", 0) > 0
    assert 0 == rates.take("quiet", 0)


def test_rate_of_zero_is_unlimited() -> None:
    """With a rate of 0 no call is delayed and no client is stored."""
    rates = RateLimiter(0, 1)
    assert {0.0} == {rates.take("noisy", 0) for _ in range(1000)}
    assert not rates._buckets


def test_the_table_of_clients_is_bounded() -> None:
    """The client whose last call is the oldest is removed once its bucket is full, and starts with a full one."""
    rates = RateLimiter(1, 1)
    for number in range(CLIENTS_MAX + 100):
        rates.take(str(number), number)
    assert CLIENTS_MAX == len(rates._buckets)
    assert 0 == rates.take("0", CLIENTS_MAX + 100)


def test_client_is_not_removed_before_its_bucket_is_full() -> None:
    """While no bucket is full, new clients share one, so a client that used up its calls does not start with a full
    bucket."""
    rates = RateLimiter(0.001, 2)
    for number in range(CLIENTS_MAX):
        rates.take(str(number), 0)
    rates.take("0", 0)
    taken = [name for name in range(10_000, 20_000) if rates.take(str(name), 1) == 0]
    assert [10_000, 10_001] == taken
    assert rates.take("0", 1) > 0
    assert CLIENTS_MAX + 1 == len(rates._buckets)
    assert 0 == rates.take("new", 3000)
