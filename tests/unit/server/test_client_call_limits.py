"""Limits on inference calls in progress, in total and for each client."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import ExitStack

import pytest

from edge_agent.errors import Draining, QueueFull, ShareExceeded
from edge_agent.server.client_call_limits import QUIET_SECONDS, QUIET_SECONDS_MAX, RETRY_SECONDS, AdmissionControl


def test_calls_over_the_limit_are_refused_with_a_delay() -> None:
    """A call beyond the limit is refused with a delay, and accepted once another has ended."""
    admission = AdmissionControl(calls_max=1)
    with (
        admission.call("a"),
        pytest.raises(QueueFull, match="1 calls are in progress; the limit is 1") as caught,
        admission.call("a"),
    ):
        pass
    assert caught.value.retry_seconds > 0
    with admission.call("a"):
        pass


def test_failed_call_releases_its_place() -> None:
    """A call that raises releases its place, and no entry remains of a client without calls."""
    admission = AdmissionControl(calls_max=1)
    with pytest.raises(ZeroDivisionError), admission.call("a"):
        raise ZeroDivisionError
    with admission.call("a"):
        pass
    assert not admission._by_client


def test_calls_are_refused_while_draining() -> None:
    """A draining daemon refuses calls with the usual delay, because an idle daemon restarts long before its drain time
    ends."""
    admission = AdmissionControl(calls_max=1)
    admission.draining = True
    with pytest.raises(Draining) as caught, admission.call("a"):
        pass
    assert RETRY_SECONDS == caught.value.retry_seconds


async def test_drain_waits_until_refused_callers_are_quiet() -> None:
    """A drain waits while refused calls arrive, but a client that keeps calling does not delay the stop for ever."""
    admission, refused, over = AdmissionControl(calls_max=1), 0, False
    admission.draining = True
    await admission.wait_until_quiet()

    def call_on() -> None:
        nonlocal refused
        with pytest.raises(Draining), admission.call("a"):
            pass
        refused += 1
        if not over:
            asyncio.get_running_loop().call_soon(call_on)

    call_on()
    await admission.wait_until_quiet()
    over = True
    assert refused > QUIET_SECONDS_MAX / QUIET_SECONDS


def test_another_client_gets_a_place_beside_a_busy_one() -> None:
    """If one client uses all places, a call of another is accepted, and the next call of the busy one refused."""
    admission = AdmissionControl(calls_max=12)
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(admission.call("noisy"))
        stack.enter_context(admission.call("quiet"))
        with pytest.raises(ShareExceeded, match="12 calls of noisy are in progress, and 1 of others") as caught:
            stack.enter_context(admission.call("noisy"))
        assert caught.value.retry_seconds > 0


def test_limit_for_each_client_is_enforced() -> None:
    """A client at its own limit is refused although there are free places; the error has its name and the number."""
    admission = AdmissionControl(calls_max=12, client_calls_max=2)
    with admission.call("a"), admission.call("a"), admission.call("b"):
        with pytest.raises(ShareExceeded, match="2 calls of a are in progress; the limit is 2"), admission.call("a"):
            pass
        with admission.call("b"):
            pass


@pytest.mark.parametrize("calls_max", [64, 256])
def test_all_accounts_of_a_socket_leave_places_to_others(calls_max: int) -> None:
    """Whatever names a program gives on a socket, a new client still gets a place when none of those accounts does."""
    accounts = ["inference.sock", *(f"inference.sock #{number}" for number in range(1, 17))]
    admission = AdmissionControl(calls_max)
    with ExitStack() as stack:
        refused: set[str] = set()
        for account in itertools.cycle(accounts):
            try:
                stack.enter_context(admission.call(account))
                refused.clear()
            except ShareExceeded:
                refused.add(account)
            if len(refused) == len(accounts):
                break
        for client in ("admin.sock", "tls till-1"):
            stack.enter_context(admission.call(client))
