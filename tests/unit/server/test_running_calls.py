"""RunningCalls of edge_agent/server/interceptor.py: how a drain waits for calls in progress."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.errors import Draining
from edge_agent.server.interceptor import RunningCalls
from tests.support.eventually import turns


async def call(calls: RunningCalls, ends: asyncio.Event) -> str:
    """A call that runs until `ends` is set."""
    task = calls.begin()
    try:
        await ends.wait()
    except asyncio.CancelledError:
        if refusal := calls.take_refusal(task):
            raise refusal from None
        raise
    return "answered"


async def test_drain_waits_for_calls_that_end_in_time() -> None:
    """A drain waits for running calls and for those that start meanwhile, and refuses none."""
    calls, ends = RunningCalls(), asyncio.Event()
    asked = [asyncio.create_task(call(calls, ends))]
    await turns()
    draining = asyncio.create_task(calls.drain(60.0))
    await turns()
    asked.append(asyncio.create_task(call(calls, ends)))
    await turns()
    assert not draining.done()
    ends.set()
    await draining
    assert ["answered"] * 2 == [await each for each in asked]


async def test_calls_that_exceed_the_drain_time_are_refused() -> None:
    """A call that exceeds the drain time fails with an error that suggests a retry and has the time."""
    calls = RunningCalls()
    asked = asyncio.create_task(call(calls, asyncio.Event()))
    await turns()
    await calls.drain(0.01)
    with pytest.raises(Draining, match=r"has not ended within the 0.01 s"):
        await asked


async def test_cancelled_call_is_not_refused_by_a_drain() -> None:
    """A call that its caller cancels during a drain is cancelled and not refused."""
    calls = RunningCalls()
    asked = asyncio.create_task(call(calls, asyncio.Event()))
    await turns()
    draining = asyncio.create_task(calls.drain(60.0))
    await turns()
    asked.cancel()
    await draining
    assert asked.cancelled()


async def test_drain_of_an_idle_listener_ends_at_once() -> None:
    """Without calls a drain returns at once."""
    draining = asyncio.create_task(RunningCalls().drain(60.0))
    await turns()
    assert draining.done()
