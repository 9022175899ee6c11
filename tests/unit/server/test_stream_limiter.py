"""Streams of requests: how each ends, and how many a caller may have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from edge_agent.errors import DeadlineExpired, Draining, ShareExceeded
from edge_agent.server.open_inference.oip_servicer import StreamLimiter

STREAMS = 2


async def some(*requests: str, then_silent: bool = False) -> AsyncIterator[str]:
    for request in requests:
        yield request
    if then_silent:
        await asyncio.Event().wait()


async def test_a_stream_ends_when_its_caller_ends_it() -> None:
    """When its caller ends a stream, all its requests have been passed on."""
    assert ["a", "b"] == [request async for request in StreamLimiter(STREAMS).iterate(some("a", "b"))]


async def test_silent_stream_is_ended() -> None:
    """A stream without a request for the allowed time ends, after its earlier requests were passed on."""
    stream = StreamLimiter(STREAMS, silent_seconds_max=0.01).iterate(some("a", then_silent=True))
    assert "a" == await anext(stream)
    with pytest.raises(DeadlineExpired, match=r"no request came on this stream for 0.01 s"):
        await anext(stream)


async def test_stop_ends_waiting_streams_at_once() -> None:
    """`close` ends streams that wait for a request, so the stop does not take their full timeout."""
    dialogues, waiting = StreamLimiter(STREAMS), asyncio.Event()

    async def read() -> None:
        async for _ in dialogues.iterate(some("a", then_silent=True)):
            waiting.set()

    reading = asyncio.create_task(read())
    await waiting.wait()
    dialogues.close()
    with pytest.raises(Draining):
        await reading


async def test_stop_at_the_moment_of_a_timeout_raises_nothing() -> None:
    """`close` raises nothing if the wait of a stream has just ended and its task has not run yet."""
    dialogues, waiting, loop = StreamLimiter(STREAMS), asyncio.Event(), asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    async def read() -> None:
        async for _ in dialogues.iterate(some("a", then_silent=True)):
            waiting.set()

    def stop() -> None:
        try:
            stopped.set_result(dialogues.close())
        except RuntimeError as error:
            stopped.set_exception(error)

    reading = asyncio.create_task(read())
    await waiting.wait()
    dialogues.close()  # ends the wait in the next turn of the loop, before `stop`
    loop.call_soon(stop)
    await stopped
    with pytest.raises(Draining):
        await reading


async def test_stop_lets_the_current_request_be_answered() -> None:
    """A stream ends after the request that is being answered."""
    dialogues, answered = StreamLimiter(STREAMS), []

    async def read() -> None:
        async for request in dialogues.iterate(some("a", "b")):
            dialogues.close()
            answered.append(request)

    with pytest.raises(Draining):
        await read()
    assert ["a"] == answered


def test_streams_of_a_caller_are_limited() -> None:
    """A stream beyond the limit of its caller is refused with a delay; another caller still gets one, and an ended
    stream frees its place."""
    dialogues = StreamLimiter(STREAMS)
    with dialogues.slot("till-1"), dialogues.slot("till-2"):
        with dialogues.slot("till-1"):
            with pytest.raises(ShareExceeded, match="2 streams of requests of till-1 are in progress; the limit is 2"):
                dialogues.slot("till-1")
            with dialogues.slot("till-2"):
                pass
        with dialogues.slot("till-1"):
            pass
