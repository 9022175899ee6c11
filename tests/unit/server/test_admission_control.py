"""How many inference calls are taken at a time, of all clients and of each."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import ExitStack

import pytest

from edge_agent.errors import Draining, QueueFull, ShareExceeded
from edge_agent.server.admission_control import QUIET_SECONDS, QUIET_SECONDS_MAX, RETRY_SECONDS, AdmissionControl


def test_calls_over_the_limit_are_refused_with_a_delay() -> None:
    """The second of two nested calls does not fit a limit of one; after the first it does."""
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


def test_a_failed_call_gives_its_place_back() -> None:
    """However the block ends; and nothing is remembered of a client without calls."""
    admission = AdmissionControl(calls_max=1)
    with pytest.raises(ZeroDivisionError), admission.call("a"):
        raise ZeroDivisionError
    with admission.call("a"):
        pass
    assert not admission._by_client


def test_nothing_is_taken_while_draining() -> None:
    """The delay is that of any refusal: an idle daemon is back long before its drain time is over."""
    admission = AdmissionControl(calls_max=1)
    admission.draining = True
    with pytest.raises(Draining) as caught, admission.call("a"):
        pass
    assert RETRY_SECONDS == caught.value.retry_seconds


async def test_a_drain_waits_until_callers_have_been_told() -> None:
    """While calls come it waits, and not for ever: one that keeps calling does not hold up the stop."""
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


def test_another_client_finds_a_place() -> None:
    """One has all it may have; the next is taken, and of both the one with less."""
    admission = AdmissionControl(calls_max=12)
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(admission.call("noisy"))
        stack.enter_context(admission.call("quiet"))
        with pytest.raises(ShareExceeded, match="12 calls of noisy are in progress, and 1 of others") as caught:
            stack.enter_context(admission.call("noisy"))
        assert caught.value.retry_seconds > 0


def test_a_client_may_have_a_limit_of_its_own() -> None:
    """Though there is room: its name and the number are in the refusal."""
    admission = AdmissionControl(calls_max=12, client_calls_max=2)
    with admission.call("a"), admission.call("a"), admission.call("b"):
        with pytest.raises(ShareExceeded, match="2 calls of a are in progress; the limit is 2"), admission.call("a"):
            pass
        with admission.call("b"):
            pass


@pytest.mark.parametrize("calls_max", [64, 256])
def test_all_accounts_of_a_socket_leave_places_to_others(calls_max: int) -> None:
    """Whatever names a program gives on a socket: when no account of it gets another place, a new client still does."""
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
