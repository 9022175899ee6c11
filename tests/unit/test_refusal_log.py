"""edge_agent/refusal_log.py: what is counted, what is logged, and how little a flood writes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from edge_agent.log_deduplication import KINDS_MAX, WINDOW_SECONDS
from edge_agent.refusal_log import REASONS_MAX, RefusalLog, handshake_cause
from tests.support.simulated_time import advance, simulated

Lines = list[dict[str, Any]]


@pytest.fixture(name="lines")
def _lines() -> Iterator[Lines]:
    with structlog.testing.capture_logs() as captured:
        yield captured  # type: ignore[misc] # of structlog's own mapping


def in_simulated_time(events: list[tuple[float, str, str]], until: float) -> RefusalLog:
    """Record refusals of (second, client, reason) while the log runs."""

    async def play() -> RefusalLog:
        loop = asyncio.get_running_loop()
        refusals = RefusalLog(loop.time)
        running = asyncio.create_task(refusals.run())
        for at, client, reason in events:
            if at > loop.time():
                await advance(at - loop.time())
            refusals.record("grpc", client, reason, call="Classify")
        await advance(until - loop.time())
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return refusals

    return simulated(play())


def test_a_refusal_is_logged_with_who_what_and_why(lines: Lines) -> None:
    """The cause is the one of the catalogue: no text of the call."""
    RefusalLog().record("grpc", "tls till-3", "TASK_UNKNOWN", call="Classify")
    expected = {
        "event": "call_refused",
        "log_level": "warning",
        "surface": "grpc",
        "client": "tls till-3",
        "reason": "TASK_UNKNOWN",
        "call": "Classify",
        "cause": "No task with this name is installed.",
    }
    assert [expected] == lines


def test_a_flood_is_one_line_a_minute_and_a_summary(lines: Lines) -> None:
    """A thousand refusals in a minute are a line and a summary of 999; each client and reason has its own."""
    flood = [(number * 0.05, "till-1", "QUEUE_FULL") for number in range(1000)]
    refusals = in_simulated_time([*flood, (50, "till-2", "QUEUE_FULL"), (50, "till-1", "ROLE_MISSING")], until=200)
    found = [(line["event"], line["client"], line["reason"], line.get("times_more")) for line in lines]
    assert [
        ("call_refused", "till-1", "QUEUE_FULL", None),
        ("call_refused", "till-2", "QUEUE_FULL", None),
        ("call_refused", "till-1", "ROLE_MISSING", None),
        ("refusals_repeated", "till-1", "QUEUE_FULL", 999),
    ] == found
    assert {("grpc", "QUEUE_FULL"): 1001, ("grpc", "ROLE_MISSING"): 1} == refusals.counts


def test_what_goes_on_is_logged_every_minute(lines: Lines) -> None:
    """A refusal each second for ten minutes: a line and a summary a minute."""
    in_simulated_time([(float(second), "till", "QUEUE_FULL") for second in range(600)], until=700)
    events = [line["event"] for line in lines]
    assert (10, 10) == (events.count("call_refused"), events.count("refusals_repeated"))
    assert 600 == sum(line.get("times_more", 1) for line in lines)


def test_many_callers_are_a_bounded_number_of_lines(lines: Lines) -> None:
    """A caller that takes a new name with each call fills neither the table nor the journal."""
    refusals = in_simulated_time([(0.0, f"client {number}", "QUEUE_FULL") for number in range(10_000)], until=200)
    assert len(lines) <= KINDS_MAX + 2
    assert {("grpc", "QUEUE_FULL"): 10_000} == refusals.counts


def test_reasons_are_bounded() -> None:
    """Those that find no place are counted as others."""
    refusals = RefusalLog()
    for number in range(REASONS_MAX + 10):
        refusals.record("http", "", f"REASON_{number}")
    assert (REASONS_MAX + 1, 10) == (len(refusals.counts), refusals.counts["http", "OTHER"])


def test_a_stop_logs_what_was_only_counted(lines: Lines) -> None:
    """The summary of a minute that has not ended is not lost, and written once."""
    refusals = RefusalLog()
    for _ in range(3):
        refusals.record("grpc", "till", "QUEUE_FULL")
    refusals.close()
    refusals.close()
    assert [None, 2] == [line.get("times_more") for line in lines]
    assert WINDOW_SECONDS == lines[-1]["within_seconds"]


@pytest.mark.parametrize("reason", ["MODEL_FAILED", "ENGINE_CRASHED", "CANCELLED"])
def test_what_is_no_refusal_is_not_recorded(lines: Lines, reason: str) -> None:
    """The engine logs failures of the model; a caller that cancels is not refused."""
    refusals = RefusalLog()
    refusals.record("grpc", "till", reason)
    assert ([], {}) == (lines, refusals.counts)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (b"error:100000c0:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE: x", "no client certificate"),
        (b"[SSL: PEER_DID_NOT_RETURN_A_CERTIFICATE] peer did not return a certificate", "no client certificate"),
        (b"CERTIFICATE_VERIFY_FAILED: certificate has expired", "expired client certificate"),
        (
            b"CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate",
            "client certificate of another authority",
        ),
        (b"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: new", "client certificate is not accepted"),
        (b"WRONG_VERSION_NUMBER", "not TLS"),
        (b"[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca", "client does not trust the server's certificate"),
        (b"something else", "other"),
    ],
)
def test_the_cause_of_a_failed_handshake_is_one_of_few(error: bytes, cause: str) -> None:
    """As gRPC and Python write it: it is a label of a metric."""
    assert cause == handshake_cause(error)
