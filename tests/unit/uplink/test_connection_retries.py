"""The known state of the upstream: it is retried within a limited time and never in a busy loop."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.uplink import connection_retries
from edge_agent.uplink.connection_retries import Backoff, Connectivity

BACKOFF = Backoff(first_seconds=2, seconds_max=900, failures_max=3)
JITTERS = st.floats(0, 1)
# One event: it succeeds or fails, with a jitter, after so many seconds.
EVENTS = st.lists(st.tuples(st.booleans(), JITTERS, st.floats(0, 5000)), max_size=60)


def follow(events: list[tuple[bool, float, float]]) -> list[tuple[float, Connectivity, Connectivity]]:
    """Retry whenever allowed; return (time, state before, state after) of each attempt."""
    now, known, seen = 0.0, connection_retries.initial_connectivity(0.0), []
    for success, jitter, later in events:
        now += later
        known = connection_retries.after_time_passed(known, now)
        if known.may_try(now):
            after = (
                connection_retries.after_success(known, now)
                if success
                else connection_retries.after_failure(known, now, BACKOFF, jitter)
            )
            seen.append((now, known, after))
            known = after
    return seen


@given(EVENTS)
def test_success_means_online_and_failure_means_a_pause(events):
    """After a success more attempts are allowed at once; after a failure none for at least half the first pause."""
    for now, before, after in follow(events):
        if after.state == "online" and not after.failures:
            assert after.may_try(now)
            assert now == after.last_contact
        else:
            assert not after.may_try(now)
            assert now + 1.0 <= after.retry_at <= now + BACKOFF.seconds_max  # a difference would be rounded
            assert before.last_contact == after.last_contact


@given(EVENTS)
def test_pause_ends_with_one_attempt(events):
    """When the pause ends, one attempt is allowed, whatever happened before."""
    for _, _, after in follow(events):
        later = connection_retries.after_time_passed(after, after.retry_at)
        assert later.may_try(after.retry_at)
        assert ("probing" if after.state == "offline" else "online") == later.state


@given(EVENTS)
def test_an_upstream_that_was_not_online_is_offline_after_one_failure(events):
    """An upstream that was online stays so until `failures_max` failures in a row; any other is offline after one."""
    for _, before, after in follow(events):
        if after.failures:
            online = before.state == "online" and after.failures < BACKOFF.failures_max
            assert ("online" if online else "offline") == after.state


@given(EVENTS)
def test_since_is_when_the_state_began(events):
    """`since` changes only with the state, so it does not move while an upstream stays offline."""
    seen = follow(events)
    for (_, _, first), (now, before, after) in itertools.pairwise(seen):
        if first.state == after.state:
            assert first.since == before.since == after.since
        if before.state == "online" and after.state == "offline":
            assert now == after.since


@given(st.integers(1, 10_000), JITTERS)
def test_pauses_grow_to_a_limit(failures, jitter):
    """Each pause is between half its ceiling and the ceiling, which doubles up to a maximum."""
    ceiling = min(900, 2 * 2 ** min(failures - 1, 60))
    assert ceiling / 2 <= BACKOFF.pause_seconds(failures, jitter) <= ceiling
    assert BACKOFF.pause_seconds(failures, jitter) <= BACKOFF.pause_seconds(failures + 1, jitter)


def test_day_offline_takes_few_attempts():
    """An unreachable upstream is tried about once in a quarter of an hour."""
    now, known, tries = 0.0, connection_retries.initial_connectivity(0.0), 0
    while now < 86_400:
        known = connection_retries.after_time_passed(known, now)
        known, tries = connection_retries.after_failure(known, now, BACKOFF, 0.5), tries + 1
        now = known.retry_at
    assert 100 <= tries <= 150
