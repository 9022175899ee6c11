"""Open streams of requests: how each ends."""

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
    """Every request was handed on."""
    assert ["a", "b"] == [request async for request in StreamLimiter(STREAMS).iterate(some("a", "b"))]


async def test_a_silent_caller_is_given_up() -> None:
    """After the time that is allowed, and not before its requests were handed on."""
    stream = StreamLimiter(STREAMS, silent_seconds_max=0.01).iterate(some("a", then_silent=True))
    assert "a" == await anext(stream)
    with pytest.raises(DeadlineExpired, match=r"no request came on this stream for 0.01 s"):
        await anext(stream)


async def test_a_stop_ends_streams_that_wait() -> None:
    """At once; otherwise each stop would take as long as it may."""
    dialogues, waiting = StreamLimiter(STREAMS), asyncio.Event()

    async def read() -> None:
        async for _ in dialogues.iterate(some("a", then_silent=True)):
            waiting.set()

    reading = asyncio.create_task(read())
    await waiting.wait()
    dialogues.close()
    with pytest.raises(Draining):
        await reading


async def test_a_stop_in_the_moment_in_which_a_silence_ends_is_no_error() -> None:
    """A stop goes on, whatever its streams do: here the wait of one has ended, and its task has not noticed yet."""
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


async def test_a_stop_lets_the_request_at_hand_be_answered() -> None:
    """The stream ends after it."""
    dialogues, answered = StreamLimiter(STREAMS), []

    async def read() -> None:
        async for request in dialogues.iterate(some("a", "b")):
            dialogues.close()
            answered.append(request)

    with pytest.raises(Draining):
        await read()
    assert ["a"] == answered


def test_a_caller_holds_so_many_streams_open() -> None:
    """One more is refused with a time to come back; another caller finds a place, and one that ends makes room."""
    dialogues = StreamLimiter(STREAMS)
    with dialogues.slot("till-1"), dialogues.slot("till-2"):
        with dialogues.slot("till-1"):
            with pytest.raises(ShareExceeded, match="2 streams of requests of till-1 are in progress; the limit is 2"):
                dialogues.slot("till-1")
            with dialogues.slot("till-2"):
                pass
        with dialogues.slot("till-1"):
            pass
