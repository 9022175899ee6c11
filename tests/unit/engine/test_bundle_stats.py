"""What is counted of a bundle's inputs, and what is not."""

from __future__ import annotations

import cProfile

import pytest

from edge_agent.engine.bundle_stats import LATENCIES_MAX, BundleStats
from edge_agent.engine.protocol import FailureReport, JobResult

CALLS_MAX = 4
"""Of functions, for each answer that is counted: the counting itself, and what it calls."""


@pytest.mark.parametrize(
    ("reason", "counted"),
    [
        ("MODEL_FAILED", (1, 1)),
        ("ENGINE_CRASHED", (1, 1)),
        ("INPUT_TOO_LONG", (0, 0)),
        ("CANCELLED", (0, 0)),
        ("MADE_UP", (0, 0)),
    ],
)
def test_only_what_the_model_fails_counts_against_it(reason: str, counted: tuple[int, int]):
    """What callers do says nothing of a bundle."""
    tally = BundleStats()
    tally.record_end(FailureReport(job_id="1", reason=reason, message=""), 0.01)
    assert counted == (tally.calls, tally.failures)
    assert (0, 0.0) == (tally.timed, tally.median_ms)


def test_time_is_of_the_latest_inputs_and_of_each_token():
    """A generation of 10 tokens in 0.2 s counts as 20 ms; a deadline that passed counts with what it lasted."""
    tally = BundleStats()
    tally.record_end(JobResult(job_id="1", output_tokens=10), 0.2)
    assert (1, 20.0) == (tally.calls, tally.median_ms)
    tally.record_timeout(1.0)
    assert (2, 510.0) == (tally.calls, tally.median_ms)
    for _ in range(LATENCIES_MAX):
        tally.record_end(JobResult(job_id="1"), 0.005)
    assert (LATENCIES_MAX + 2, LATENCIES_MAX, 5.0) == (tally.calls, tally.timed, tally.median_ms)


def calls_of_counting(tally: BundleStats) -> int:
    """Return how many functions are called to count a hundred answers, by Python or in C."""
    profile = cProfile.Profile()
    done = JobResult(job_id="1")
    profile.enable()
    for _ in range(100):
        tally.record_end(done, 0.001)
    profile.disable()
    return sum(each.callcount for each in profile.getstats())


def test_counting_costs_next_to_nothing():
    """A few calls of functions for each answer, and no more after thousands of them."""
    tally = BundleStats()
    first = calls_of_counting(tally)
    for _ in range(100 * LATENCIES_MAX):
        tally.record_end(JobResult(job_id="1"), 0.001)
    assert first == calls_of_counting(tally)
    assert first <= CALLS_MAX * 100
