"""edge_agent/refusal_log.py: repeated refusals are logged once and counted.

Tests that change standard error run it in a process of its own.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.refusal_log import KINDS_MAX, REASONS_MAX, WINDOW_SECONDS, LogDeduplicator, RefusalLog, handshake_cause
from tests.support.simulated_time import advance, simulated


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 50)), max_size=200))
def test_logged_and_counted_refusals_add_up(events: list[tuple[str, float]]) -> None:
    """Each kind has at most two lines in a window."""
    repeats, now = LogDeduplicator("others"), 0.0
    told: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for kind, gap in events:
        now += gap
        counted = repeats.pop_due(now)
        told.update(dict(counted))
        lines.update(kind for kind, _ in counted)
        if repeats.record(kind, now):
            told[kind] += 1
            lines[kind] += 1
    told.update(dict(repeats.pop_due(float("inf"))))
    assert Counter(kind for kind, _ in events) == told
    assert all(count <= 2 * (1 + now / WINDOW_SECONDS) for count in lines.values())


def test_number_of_kinds_is_limited() -> None:
    """Kinds beyond the limit are counted together."""
    repeats = LogDeduplicator("others")
    first = [repeats.record(str(number), 0) for number in range(KINDS_MAX + 10)]
    assert [True] * (KINDS_MAX + 1) + [False] * 9 == first
    assert [("others", 9)] == repeats.pop_due(float("inf"))
    assert [] == repeats.pop_due(float("inf"))


def test_kind_is_logged_again_after_its_window() -> None:
    """Once it was counted out."""
    repeats = LogDeduplicator("others")
    assert [True, False] == [repeats.record("a", 0), repeats.record("a", 1)]
    assert [] == repeats.pop_due(WINDOW_SECONDS - 1)
    assert [("a", 1)] == repeats.pop_due(WINDOW_SECONDS)
    assert repeats.record("a", WINDOW_SECONDS)


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


def test_refusal_is_logged_with_client_call_and_reason(lines: Lines) -> None:
    """The reason is one of the catalogue, without any text of the call."""
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
    """A thousand refusals in a minute make one line and a summary of 999 for each client and reason."""
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


def test_continuing_refusals_are_logged_every_minute(lines: Lines) -> None:
    """A refusal per second for ten minutes makes one line and one summary a minute."""
    in_simulated_time([(float(second), "till", "QUEUE_FULL") for second in range(600)], until=700)
    events = [line["event"] for line in lines]
    assert (10, 10) == (events.count("call_refused"), events.count("refusals_repeated"))
    assert 600 == sum(line.get("times_more", 1) for line in lines)


def test_many_callers_make_a_limited_number_of_lines(lines: Lines) -> None:
    """A caller that uses a new name for each call fills neither the table nor the journal."""
    refusals = in_simulated_time([(0.0, f"client {number}", "QUEUE_FULL") for number in range(10_000)], until=200)
    assert len(lines) <= KINDS_MAX + 2
    assert {("grpc", "QUEUE_FULL"): 10_000} == refusals.counts


def test_number_of_reasons_is_limited() -> None:
    """Reasons beyond the limit are counted as OTHER."""
    refusals = RefusalLog()
    for number in range(REASONS_MAX + 10):
        refusals.record("http", "", f"REASON_{number}")
    assert (REASONS_MAX + 1, 10) == (len(refusals.counts), refusals.counts["http", "OTHER"])


def test_close_logs_the_pending_summary(lines: Lines) -> None:
    """The summary of an unfinished minute is written once."""
    refusals = RefusalLog()
    for _ in range(3):
        refusals.record("grpc", "till", "QUEUE_FULL")
    refusals.close()
    refusals.close()
    assert [None, 2] == [line.get("times_more") for line in lines]
    assert WINDOW_SECONDS == lines[-1]["within_seconds"]


@pytest.mark.parametrize("reason", ["MODEL_FAILED", "ENGINE_CRASHED", "CANCELLED"])
def test_failures_and_cancellations_are_not_recorded(lines: Lines, reason: str) -> None:
    """The engine logs failures of the model, and a cancelled call is not refused."""
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
def test_cause_of_a_failed_handshake_is_one_of_a_fixed_set(error: bytes, cause: str) -> None:
    """The cause, from messages of gRPC and Python, is a label of a metric."""
    assert cause == handshake_cause(error)


HANDSHAKE = (
    "I1128 14:58:55.133199   32012 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: "
    "error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired"
)
PROGRAM = """
import asyncio, os, sys
from edge_agent import refusal_log
log = refusal_log.CoreLog()
found = []
log.on_failed_handshake = found.append
{body}
log.close()
os.write(2, b"after\\n")
print(found)
"""


def run(body: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip(), done.stderr


def test_failed_handshakes_are_removed_from_standard_error() -> None:
    """Output of Python and other C code passes; gRPC's own lines do not."""
    body = f"""
os.write(2, b"a traceback\\n")
os.write(2, {HANDSHAKE.encode()!r} + b"\\n")
os.write(2, b"E1128 14:58:55.133199   32012 chttp2.cc:1] anything\\n")
print("of Python", file=sys.stderr)
log.read()
os.write(2, b"no end of line")
"""
    assert ("['expired client certificate']", "of Python\na traceback\nno end of lineafter\n") == run(body)


def test_flood_on_standard_error_does_not_block_writers() -> None:
    """A writer that finds the pipe full loses its line instead of waiting for the event loop."""
    body = f"""
lost = 0
for _ in range(20_000):
    try:
        os.write(2, {HANDSHAKE.encode()!r} + b"\\n")
    except BlockingIOError:
        lost += 1
log.read()
found[:] = [len(found) + lost, lost > 0]
"""
    assert ("[20000, True]", "after\n") == run(body)


def test_a_long_line_is_passed_on_in_parts() -> None:
    """Memory for a line is limited, and nothing of it is lost."""
    body = """
for _ in range(4):
    os.write(2, b"x" * 10_000)
    log.read()
"""
    assert ("[]", "x" * 40_000 + "after\n") == run(body)


def test_cancelled_reader_can_be_started_again() -> None:
    """The component can end, and be started again."""
    body = f"""
async def play():
    for number in range(2):
        running = asyncio.create_task(log.run())
        await asyncio.sleep(0)
        os.write(2, {HANDSHAKE.encode()!r} + b"\\n")
        while len(found) <= number:
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    os.write(2, {HANDSHAKE.encode()!r} + b"\\n")
asyncio.run(play())
"""
    body += "log.read()"
    found, _ = run(body)
    assert 3 == found.count("expired")
