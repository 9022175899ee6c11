"""The uplink's next action and its bandwidth."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.uplink import connection_retries, transfer_schedule
from edge_agent.uplink.connection_retries import Connectivity
from edge_agent.uplink.transfer_schedule import (
    BURST_SECONDS,
    Bandwidth,
    DownloadInput,
    ScheduleInput,
    next_action,
    transfer_cost_seconds,
)

ONLINE = Connectivity("online", since=0, retry_at=0, last_contact=0)
NOW = 100.0
VIEW = ScheduleInput(
    now=NOW,
    connectivity=ONLINE,
    bandwidth=Bandwidth.full(0, NOW),
    next_segment="e-1",
    has_status=True,
    status_changed=False,
    heartbeat_at=NOW + 900,
    receipts_at=NOW + 300,
    scan_at=NOW + 5,
)
DEBT = Bandwidth(1000, -2000.0, NOW)
PROBING, OFFLINE = connection_retries.initial_connectivity(NOW), Connectivity("offline", 0, NOW + 60, 3)
DOWN = DownloadInput(ONLINE, Bandwidth.full(0, NOW), "b-1", refresh_at=NOW + 300)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "send"),
        ({"status_changed": True}, "send"),
        ({"status_changed": True, "next_segment": ""}, "heartbeat"),
        ({"heartbeat_at": NOW}, "heartbeat"),
        ({"heartbeat_at": NOW, "has_status": False}, "send"),
        ({"receipts_at": NOW}, "fetch"),
        ({"connectivity": PROBING}, "heartbeat"),
        ({"connectivity": PROBING, "has_status": False}, "fetch"),
        ({"connectivity": connection_retries.initial_connectivity(NOW + 1)}, "wait"),
        ({"connectivity": OFFLINE}, "wait"),
        ({"bandwidth": DEBT}, "wait"),
        ({"bandwidth": DEBT, "heartbeat_at": NOW}, "heartbeat"),
        ({"paused_until": NOW + 1}, "wait"),
        ({"next_segment": ""}, "wait"),
    ],
)
def test_the_next_action(changes, expected):
    """Probing uses one small request; a changed status waits for its segments; bandwidth debts and pauses are waited
    for."""
    assert expected == next_action(replace(VIEW, **changes)).kind


@pytest.mark.parametrize(
    ("changes", "down", "expected"),
    [
        ({"next_segment": ""}, {}, "pull"),
        ({"next_segment": ""}, {"next_blob": ""}, "wait"),
        ({}, {}, "send"),
        ({"lead_seconds": 0.1}, {}, "pull"),
        ({"lead_seconds": -5.0}, {}, "send"),
        ({"lead_seconds": -5.0, "next_segment": ""}, {}, "pull"),
        ({"lead_seconds": 5.0}, {"next_blob": ""}, "send"),
        ({"lead_seconds": 5.0}, {"held_until": NOW + 1}, "send"),
        ({"lead_seconds": 5.0}, {"bandwidth": DEBT}, "send"),
        ({"lead_seconds": 5.0}, {"connectivity": OFFLINE}, "send"),
        ({"connectivity": OFFLINE}, {}, "pull"),
        ({"bandwidth": DEBT}, {}, "wait"),
        ({}, {"refresh_at": NOW}, "refresh"),
        ({"heartbeat_at": NOW}, {"refresh_at": NOW}, "heartbeat"),
        ({"bandwidth": DEBT}, {"refresh_at": NOW}, "refresh"),
        ({}, {"refresh_at": NOW, "held_until": NOW + 1}, "refresh"),
        ({"next_segment": ""}, {"connectivity": PROBING}, "refresh"),
        ({"connectivity": PROBING}, {"connectivity": PROBING}, "heartbeat"),
        ({"uploads": False, "heartbeat_at": NOW, "receipts_at": NOW}, {}, "pull"),
        ({"uploads": False}, {"next_blob": ""}, "wait"),
        ({"uploads": False, "connectivity": OFFLINE}, {"connectivity": OFFLINE}, "wait"),
        ({"paused_until": NOW + 1}, {}, "wait"),
    ],
)
def test_the_next_action_with_downloads(changes, down, expected):
    """Small transfers come first, then the direction that has used less time; a block in one direction does not affect
    the other."""
    assert expected == next_action(replace(VIEW, **changes, downloads=replace(DOWN, **down))).kind


def test_neither_direction_starves():
    """Whatever a turn costs, each direction gets half of the time, up to one turn."""
    for costs in ((1.0, 1.0), (30.0, 0.1), (0.01, 280.0)):
        used, lead = {"send": 0.0, "pull": 0.0}, 0.0
        for _ in range(2000):
            kind = next_action(replace(VIEW, downloads=DOWN, lead_seconds=lead)).kind
            cost = costs[kind == "pull"]
            used[kind] += cost
            lead += cost if kind == "send" else -cost
        assert abs(used["send"] - used["pull"]) <= max(costs)


def test_cost_of_a_transfer():
    """A transfer costs its time plus its bytes under the cap, and never nothing."""
    assert 12.0 == transfer_cost_seconds(2.0, 1000, 100)
    assert 0 < transfer_cost_seconds(0.0, 1000, 0) < 0.001


def test_only_a_wait_with_nothing_to_do_is_idle():
    """Waiting for bandwidth, a pause or the upstream is not idle."""
    assert next_action(replace(VIEW, next_segment="")).idle
    assert next_action(replace(VIEW, next_segment="", downloads=replace(DOWN, next_blob=""))).idle
    held = replace(VIEW, next_segment="", downloads=replace(DOWN, held_until=NOW + 9))
    assert (False, False) == (next_action(held).idle, next_action(held).saving)
    assert next_action(replace(VIEW, bandwidth=DEBT)).saving
    for changes in (
        {"bandwidth": DEBT},
        {"paused_until": NOW + 1},
        {"connectivity": connection_retries.initial_connectivity(NOW + 1)},
    ):
        assert not next_action(replace(VIEW, **changes)).idle


TIMES = st.floats(NOW - 50, NOW + 1000)


@given(
    st.sampled_from(["", "e-1"]),
    st.booleans(),
    st.booleans(),
    st.tuples(TIMES, TIMES, TIMES),
    st.sampled_from([ONLINE, PROBING, OFFLINE, Bandwidth(9, -99.0, NOW)]),
    st.none()
    | st.builds(
        DownloadInput,
        st.sampled_from([ONLINE, PROBING, OFFLINE]),
        st.sampled_from([DEBT, DOWN.bandwidth]),
        st.sampled_from(["", "b-1"]),
        TIMES,
        TIMES,
    ),
)
def test_wait_is_never_zero(segment, has_status, changed, times, special, down):
    """No wait ends at once, so there is no busy loop; scanning the outbox is due before."""
    heartbeat_at, receipts_at, scan_at = times
    view = replace(VIEW, next_segment=segment, has_status=has_status, status_changed=changed)
    view = replace(
        view, downloads=down, heartbeat_at=heartbeat_at, receipts_at=receipts_at, scan_at=max(scan_at, NOW + 0.001)
    )
    view = replace(view, **{"bandwidth" if isinstance(special, Bandwidth) else "connectivity": special})
    action = next_action(view)
    assert action.kind != "wait" or action.until > NOW


FILES = {
    "0123456789abcdef-0000000002.age": 20,
    "0123456789abcdef-0000000002.json": 2,
    "0123456789abcdef-0000000001.age": 10,
    "0123456789abcdef-0000000001.json": 1,
    "0123456789abcdef-0000000003.age": 30,
    "0123456789abcdef-0000000004.json": 4,
    "0123456789abcdef-0000000000.age": 9,
    "0123456789abcdef-0000000000.json": 9,
    ".0123456789abcdef-0000000005.json.partial": 9,
    "notes.json": 9,
    "notes.age": 9,
}


def test_complete_segments_are_sent_in_order():
    """A segment without its manifest or sealed file is skipped, and other files are ignored."""
    expected = {"0123456789abcdef-0000000001": 11, "0123456789abcdef-0000000002": 22}
    assert list(expected.items()) == list(transfer_schedule.unsent_segments(FILES, lambda _: False).items())
    assert ["0123456789abcdef-0000000002"] == list(
        transfer_schedule.unsent_segments(FILES, lambda stem: stem.endswith("1"))
    )


@given(st.integers(1, 10**7), st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 100)), min_size=1, max_size=50))
def test_bandwidth_cap_holds_over_any_interval(rate, objects):
    """Over any time T at most rate * T, one burst and one object are sent."""
    now, bucket, sent = 0.0, Bandwidth.full(rate, 0.0), 0
    for size, idle in objects:
        now = max(now + idle, bucket.free_at())
        bucket = bucket.spend(size, now)
        sent += size
        assert sent <= rate * now + rate * BURST_SECONDS + size + 1 + rate * 1e-6 * now


@given(st.integers(1, 10**7), st.integers(0, 10**9))
def test_bandwidth_debt_is_repaid_after_size_over_rate(rate, size):
    """After size / rate seconds the next object may be sent; without a cap at once."""
    bucket = Bandwidth.full(rate, 0.0).spend(size, 0.0)
    assert bucket.free_at() <= size / rate + 1 / rate
    assert Bandwidth.full(0, 5.0).spend(size, 5.0).free_at() == 5.0
