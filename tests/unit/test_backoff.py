"""Pauses between attempts."""

from edge_agent.backoff import backoff_seconds


def test_a_pause_doubles_with_each_failure_up_to_its_limit():
    """The first failure has the first pause; without a failure there is none."""
    assert [0.0, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0] == [backoff_seconds(failures, 0.5, 5.0) for failures in range(7)]


def test_any_number_of_failures_has_a_pause():
    """A billion failures give the longest pause without an overflow."""
    assert 60.0 == backoff_seconds(10**9, 1.0, 60.0)
