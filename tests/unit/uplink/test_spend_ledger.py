"""Rules for spending, retries and modes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.store.state_database import RecordedModes, StateDatabase
from edge_agent.uplink import connection_retries
from edge_agent.uplink.connection_retries import RetryThrottle
from edge_agent.uplink.escalation import spend_ledger
from edge_agent.uplink.escalation.spend_ledger import SpendByDay, SpendCaps, TokenPrices

DAY = "2026-11-25"


@pytest.mark.parametrize(("tokens", "price"), [((0, 0), 0), ((1, 0), 1), ((1000, 100), 210), ((3, 1), 2)])
def test_price_is_rounded_up(tokens, price):
    """A price is rounded up to a millionth."""
    assert price == TokenPrices(0.15, 0.6).of(*tokens)


@pytest.mark.parametrize(
    ("micros", "caps", "allowed"),
    [
        (40, SpendCaps(), True),
        (40, SpendCaps(day_micros=100), True),
        (41, SpendCaps(day_micros=100), False),
        (30, SpendCaps(month_micros=100), True),
        (31, SpendCaps(month_micros=100), False),
        (1, SpendCaps(day_micros=100, month_micros=70), False),
    ],
)
def test_caps_hold_to_the_last_millionth(micros, caps, allowed):
    """An amount that would exceed the cap of its day or month is not allowed."""
    spent = SpendByDay({"2026-11-24": 10, DAY: 60, "2026-10-31": 1000})
    assert allowed is spent.allows(micros, DAY, caps)


@given(st.lists(st.tuples(st.integers(1, 28), st.integers(0, 50), st.integers(0, 50))))
def test_no_order_of_questions_breaks_a_cap(questions):
    """Under any order of reservations and settlements, on any day that a jumping clock shows, no day exceeds its
    cap."""
    caps, spent = SpendCaps(day_micros=200, month_micros=500), SpendByDay()
    for number, dearest, real in questions:
        day = f"2026-11-{number:02}"
        if spent.allows(dearest, day, caps):
            spent = spent.add(dearest, day).add(min(real, dearest) - dearest, day)
        assert spent.on(day) <= 200
        assert spent.in_month(day) <= 500
    assert spent == spend_ledger.parse(spend_ledger.encode(spent))


def test_clock_set_back_by_years_does_not_reset_a_cap():
    """A day older than all stored ones is counted, and its month too."""
    spent = SpendByDay()
    for number in range(spend_ledger.DAYS_MAX):
        spent = spent.add(1, f"2026-{1 + number // 28:02}-{1 + number % 28:02}")
    spent = spent.add(60, "2020-01-01").add(30, "2020-01-02")
    assert (60, 30, 90) == (spent.on("2020-01-01"), spent.on("2020-01-02"), spent.in_month("2020-01-02"))
    assert not spent.allows(1, "2020-01-02", SpendCaps(month_micros=90))
    assert spend_ledger.DAYS_MAX == len(spent.days)


def test_number_of_stored_days_is_limited():
    """The newest days are stored, up to a limit."""
    spent = SpendByDay()
    for number in range(spend_ledger.DAYS_MAX + 5):
        spent = spent.add(1, f"{2000 + number}-01-01")
    assert spend_ledger.DAYS_MAX == len(spent.days)
    assert 0 == spent.on("2000-01-01")


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"days": {"x": 1}}', b'{"days": {"2026-11-25": -1}}', b"\xff"])
def test_invalid_spending_record_is_refused(raw):
    """A damaged record raises ValueError instead of counting as nothing spent."""
    with pytest.raises(ValueError, match=r"."):
        spend_ledger.parse(raw)


def test_retries_are_limited_under_failures():
    """Under failures few questions are retried, and answers restore the budget slowly."""
    throttle, retried = RetryThrottle(), 0
    while throttle.can_retry():
        throttle, retried = throttle.after_retry(), retried + 1
    assert 5 == retried
    answers = 0
    while not throttle.can_retry():
        throttle, answers = throttle.after_success(), answers + 1
    assert 1 <= answers <= 11


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("2", 2.0), ("0", 0.0), (None, 1.0), ("1e9", 30.0), ("-1", 30.0), ("nan", 30.0), ("Wed, 21 Oct 2026", 1.0)],
)
def test_retry_after_is_limited(header, seconds):
    """Retry-After is honoured within limits, with jitter."""
    assert seconds == connection_retries.retry_pause_seconds(header, 0.0)
    assert seconds * 1.1 == pytest.approx(connection_retries.retry_pause_seconds(header, 1.0))


def test_mode_of_the_operator_holds_until_the_plan_changes(tmp_path):
    """The operator's mode takes precedence over plan and agent.yaml, survives a restart, and ends with another mode in
    the plan."""
    state = StateDatabase(tmp_path / "state.db", may_create=True)
    modes = state.modes
    assert RecordedModes({}, {}) == modes.read()
    modes.set_planned({"pos": "shadow", "other": "local"})
    modes.set_by_operator("pos", "local")
    modes.set_planned({"pos": "shadow"})
    state.close()
    state = StateDatabase(tmp_path / "state.db", may_create=False)
    assert RecordedModes({"pos": "shadow"}, {"pos": "local"}) == state.modes.read()
    state.modes.set_planned({"pos": "hybrid"})
    assert RecordedModes({"pos": "hybrid"}, {}) == state.modes.read()
    state.modes.set_by_operator("pos", "shadow")
    state.modes.set_by_operator("pos", None)
    assert RecordedModes({"pos": "hybrid"}, {}) == state.modes.read()
    state.close()
