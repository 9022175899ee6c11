"""Probation after the switch: reasons for a rollback, a successful end, and noise that causes neither."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.formats.plan import ProbationRules
from edge_agent.update.probation import CRASHES_MAX, BundleActivity, ProbationRecord, evaluate_probation
from edge_agent.update.update_state_machine import StepResult

BEFORE = BundleActivity(calls=100, timed=100, median_ms=10.0)
WATCH = ProbationRecord.begin(ProbationRules(calls=200, hours=24), BEFORE)
HOUR = 3600.0


def judged(seen: BundleActivity, seconds: float = HOUR, watch: ProbationRecord = WATCH) -> str:
    """Return the verdict: a reason, "over", or "" while it goes on."""
    outcome = evaluate_probation(watch.plus(seen, seconds), seen)
    return "" if outcome is None else outcome.reason or "over"


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (BundleActivity(), ""),
        (BundleActivity(calls=199), ""),
        (BundleActivity(calls=200), "over"),
        (BundleActivity(calls=19, failures=19), ""),
        (BundleActivity(calls=20, failures=1), ""),
        (BundleActivity(calls=20, failures=2), "ERRORS"),
        (BundleActivity(calls=100, failures=5), ""),
        (BundleActivity(calls=100, failures=6), "ERRORS"),
        (BundleActivity(calls=200, failures=11), "ERRORS"),
        (BundleActivity(crashes=CRASHES_MAX), ""),
        (BundleActivity(crashes=CRASHES_MAX + 1), "CRASHES"),
        (BundleActivity(calls=50, timed=50, median_ms=24.9), ""),
        (BundleActivity(calls=50, timed=50, median_ms=25.1), "SLOWER"),
        (BundleActivity(calls=50, timed=19, median_ms=500.0), ""),
        (BundleActivity(problem="it does not load"), "NOT_ANSWERING"),
    ],
)
def test_verdict_for_errors_crashes_and_latency(seen: BundleActivity, verdict: str):
    """Errors count from the 20th call; latency is compared with that of the previous bundle, with a tolerance for
    noise."""
    assert verdict == judged(seen)


def test_probation_ends_after_its_hours_with_few_calls():
    """Probation ends after its number of hours even if there were fewer calls than planned."""
    assert ["", "over"] == [judged(BundleActivity(calls=3), seconds) for seconds in (24 * HOUR - 1, 24 * HOUR)]


def test_probation_without_calls_or_hours_ends_at_once():
    """If the plan names 0 calls or 0 hours, the first check ends the probation."""
    for plan in (ProbationRules(calls=0), ProbationRules(hours=0)):
        assert "over" == judged(BundleActivity(), 0.0, ProbationRecord.begin(plan, BEFORE))


def test_latency_is_not_judged_without_earlier_measurements():
    """Latency causes no rollback if the previous bundle had too few measured calls, or if there was none."""
    for before in (BundleActivity(), replace(BEFORE, timed=19)):
        watch = ProbationRecord.begin(ProbationRules(), before)
        assert "" == judged(BundleActivity(calls=50, timed=50, median_ms=5000.0), watch=watch)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5), st.floats(0, 1000)), max_size=10))
def test_counts_of_a_probation_add_up_over_restarts(lives):
    """A probation that is stored and read at each restart neither loses nor repeats calls, failures or seconds."""
    watch = WATCH
    for calls, failures, seconds in lives:
        watch = ProbationRecord.decode(watch.plus(BundleActivity(calls=calls, failures=failures), seconds).encode())
    assert (sum(life[0] for life in lives), sum(life[1] for life in lives)) == (watch.calls, watch.failures)
    assert sum(life[2] for life in lives) == pytest.approx(watch.seconds)
    assert replace(watch, calls=0, failures=0, seconds=0.0) == WATCH


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0, 100), st.integers(1, 500))
def test_more_failures_or_latency_never_improve_a_verdict(calls, failures, median_ms, more):
    """If a bundle fails its probation, it also fails with more failures among the same calls, more latency or more
    crashes."""
    failures = min(failures, calls)
    seen = BundleActivity(calls=calls, failures=failures, timed=calls, median_ms=median_ms)
    worse = (
        replace(seen, failures=min(calls, failures + more)),
        replace(seen, median_ms=median_ms + more),
        replace(seen, crashes=more),
    )
    if (outcome := evaluate_probation(WATCH.plus(seen, 0.0), seen)) and outcome.end is StepResult.FAILED:
        for each in worse:
            assert judged(each, 0.0) not in ("", "over")
