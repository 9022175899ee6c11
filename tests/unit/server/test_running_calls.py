"""edge_agent/server/interceptor.py"""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.errors import Draining
from edge_agent.server.interceptor import RunningCalls
from tests.support.eventually import turns


async def call(calls: RunningCalls, ends: asyncio.Event) -> str:
    """A call that runs until it is told to end."""
    task = calls.begin()
    try:
        await ends.wait()
    except asyncio.CancelledError:
        if refusal := calls.take_refusal(task):
            raise refusal from None
        raise
    return "answered"


async def test_calls_that_end_in_time_are_waited_for() -> None:
    """Nothing is refused, and those that began meanwhile are waited for too."""
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


async def test_calls_that_do_not_end_are_refused() -> None:
    """With an error that tells to try again, and the time that they had."""
    calls = RunningCalls()
    asked = asyncio.create_task(call(calls, asyncio.Event()))
    await turns()
    await calls.drain(0.01)
    with pytest.raises(Draining, match=r"has not ended within the 0.01 s"):
        await asked


async def test_a_call_whose_caller_leaves_is_cancelled() -> None:
    """Whether or not calls are drained: only what `drain` cancels is refused."""
    calls = RunningCalls()
    asked = asyncio.create_task(call(calls, asyncio.Event()))
    await turns()
    draining = asyncio.create_task(calls.drain(60.0))
    await turns()
    asked.cancel()
    await draining
    assert asked.cancelled()


async def test_where_nothing_runs_nothing_is_waited_for() -> None:
    """An idle listener is drained at once."""
    draining = asyncio.create_task(RunningCalls().drain(60.0))
    await turns()
    assert draining.done()
