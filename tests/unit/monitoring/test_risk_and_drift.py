"""The statistics of monitoring: false-alarm rates as stated, and sufficient power."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edge_agent import statistics
from edge_agent.monitoring import risk_and_drift
from edge_agent.monitoring.risk_and_drift import (
    DRIFT_DELTA,
    REFERENCE_ROWS,
    RISK_RATES,
    WINDOW_ROWS,
    DriftStream,
    EventSample,
    RiskEvidence,
    RiskGuarantee,
)

PROMISE = RiskGuarantee(0.05, 0.05)


@given(st.floats(0.5, 500), st.floats(0.5, 500), st.floats(0.0, 1.0))
def test_beta_distribution_matches_scipy(a, b, x):
    """The agent's own arithmetic gives what scipy gives."""
    assert pytest.approx(stats.beta.cdf(x, a, b), abs=1e-9) == statistics.beta_cdf(a, b, x)


@pytest.mark.parametrize("rows", [1, 50, 1000, 1_000_000])
def test_upper_bound_matches_scipy(rows):
    """The bound agrees with scipy's quantile for one to a million rows."""
    for errors in {0, rows // 20, rows // 2, rows - 1}:
        exact = stats.beta.ppf(0.975, errors + 1, rows - errors)
        assert pytest.approx(exact, rel=1e-7) == statistics.upper_bound(errors, rows, 0.025)


def weighed(errors, promise=PROMISE) -> RiskEvidence:
    """Return the evidence after a stream of reviewed answers."""
    found = RiskEvidence()
    for wrong in errors:
        found = found.after(wrong, promise)
    return found


def streams(rate: float, rows: int, count: int, seed: int):
    """Return streams of reviewed answers that are wrong with a probability."""
    drawn = random.Random(seed)
    return ([drawn.random() < rate for _ in range(rows)] for _ in range(count))


def test_kept_guarantee_is_refuted_at_most_with_delta():
    """With errors exactly at the target, tested after each of 2,000 answers, the alarm rate is at most delta."""
    runs = 250
    alarms = sum(weighed(stream).rejects(PROMISE) for stream in streams(PROMISE.target, 2000, runs, 1))
    spread = math.sqrt(PROMISE.delta * (1 - PROMISE.delta) / runs)
    assert alarms / runs <= PROMISE.delta + 2 * spread


@pytest.mark.parametrize(("rate", "rows"), [(0.10, 600), (0.15, 250), (0.30, 80)])
def test_broken_guarantee_is_refuted(rate, rows):
    """Errors at two, three and six times the target are detected in at least 80% of streams of a realistic length."""
    runs = 200
    alarms = sum(weighed(stream).rejects(PROMISE) for stream in streams(rate, rows, runs, 2))
    assert alarms / runs >= 0.8


@given(st.floats(0.01, 0.5), st.integers(0, 300), st.data())
def test_the_bet_is_fair(target, judged, data):
    """After any history, one more answer at the target's error rate leaves the expected capital unchanged."""
    wrong = data.draw(st.integers(0, judged))
    now = statistics.betting_log_capital(judged, wrong, target, RISK_RATES)
    expected = target * math.exp(statistics.betting_log_capital(judged + 1, wrong + 1, target, RISK_RATES) - now) + (
        1 - target
    ) * math.exp(statistics.betting_log_capital(judged + 1, wrong, target, RISK_RATES) - now)
    assert pytest.approx(1.0, abs=1e-9) == expected


@given(st.lists(st.booleans(), max_size=200))
def test_peak_of_the_evidence_never_decreases(errors):
    """Evidence that once refuted the guarantee keeps it refuted."""
    peaks = [weighed(errors[:end]).peak for end in range(len(errors) + 1)]
    assert sorted(peaks) == peaks


@given(st.integers(1, 80), st.integers(1, 80), st.data())
def test_two_samples_are_compared_exactly(rows, rows_now, data):
    """The p-value is twice the smaller tail of the hypergeometric distribution."""
    hits, now = data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows_now))
    law = stats.hypergeom(rows + rows_now, hits + now, rows_now)
    exact = min(1.0, 2 * min(law.cdf(now), law.sf(now - 1)))
    assert pytest.approx(exact, abs=1e-9) == statistics.two_sample_p_value(hits, rows, now, rows_now)


def watched(drawn: np.random.Generator, shares: list[float], floor: float) -> int:
    """Return how many windows differ: the first share is of the reference, the others of one window each."""

    def sample(rows: int, share: float) -> EventSample:
        hits = int(drawn.binomial(rows, share))
        return EventSample(rows, {"a": hits, "b": rows - hits})

    stream, found = DriftStream(sample(REFERENCE_ROWS, shares[0])), 0
    for share in shares[1:]:
        stream = replace(stream, window=sample(WINDOW_ROWS, share))
        found += stream.find_drift(floor, 2) is not None
        stream = stream.next_window()
    return found


def test_false_alarm_rate_of_drift_is_within_delta():
    """Without a floor, at most a share delta of 500 unchanged sites raises an alarm over 20 windows."""
    drawn, sites = np.random.default_rng(3), 500
    alarms = sum(watched(drawn, [0.3] * 21, 0.0) > 0 for _ in range(sites))
    assert alarms / sites <= DRIFT_DELTA + 2 * math.sqrt(DRIFT_DELTA * (1 - DRIFT_DELTA) / sites)


def test_a_drift_is_found_in_its_first_window():
    """A share that changes from 30% to 45% is detected in the next window at 18 of 20 sites."""
    found = [watched(np.random.default_rng(seed), [0.3] * 10 + [0.45], 0.1) for seed in range(20)]
    assert sum(found) >= 18


def test_memory_is_bounded():
    """A stream holds two counts for each event, however many answers it observes."""
    stream = DriftStream()
    for number in range(REFERENCE_ROWS + 3 * WINDOW_ROWS):
        stream = stream.after([[f"{number % 7}"]])
        stream = stream.next_window() if stream.is_full else stream
    assert (REFERENCE_ROWS, 0, WINDOW_ROWS, 3) == (
        stream.reference.rows, stream.window.rows, stream.last.rows, stream.windows)  # fmt: skip
    assert 7 == len(stream.reference.counts) == len(stream.last.counts)


def test_calibrated_reference_is_fixed():
    """A reference from calibration is compared from the first window and not extended."""
    stream = DriftStream(EventSample(200, {"sure": 160}), calibrated=True)
    for _ in range(risk_and_drift.WINDOW_ROWS):
        stream = stream.after([[]])
    found = stream.find_drift(0.1, 1)
    assert found is not None
    assert ("sure", 0.8, 0.0) == (found.event, found.reference_share, found.window_share)
