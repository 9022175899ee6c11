"""Open streams of requests: how each ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from edge_agent.errors import DeadlineExpired, Draining
from edge_agent.service.open_inference.dialogues import Dialogues


async def some(*requests: str, then_silent: bool = False) -> AsyncIterator[str]:
    for request in requests:
        yield request
    if then_silent:
        await asyncio.Event().wait()


async def test_a_stream_ends_when_its_caller_ends_it() -> None:
    """Every request was handed on."""
    assert ["a", "b"] == [request async for request in Dialogues().each(some("a", "b"))]


async def test_a_silent_caller_is_given_up() -> None:
    """After the time that is allowed, and not before its requests were handed on."""
    stream = Dialogues(silent_seconds_max=0.01).each(some("a", then_silent=True))
    assert "a" == await anext(stream)
    with pytest.raises(DeadlineExpired, match=r"no request came on this stream for 0.01 s"):
        await anext(stream)


async def test_a_stop_ends_streams_that_wait() -> None:
    """At once; otherwise each stop would take as long as it may."""
    dialogues, waiting = Dialogues(), asyncio.Event()

    async def read() -> None:
        async for _ in dialogues.each(some("a", then_silent=True)):
            waiting.set()

    reading = asyncio.create_task(read())
    await waiting.wait()
    dialogues.close()
    with pytest.raises(Draining):
        await reading


async def test_a_stop_lets_the_request_at_hand_be_answered() -> None:
    """The stream ends after it."""
    dialogues, answered = Dialogues(), []

    async def read() -> None:
        async for request in dialogues.each(some("a", "b")):
            dialogues.close()
            answered.append(request)

    with pytest.raises(Draining):
        await read()
    assert ["a"] == answered
