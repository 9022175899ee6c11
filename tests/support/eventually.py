"""Waiting for something that another process does: polled with a deadline, the one place where tests sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

POLL_SECONDS = 0.01
SECONDS_MAX = 60.0
"""Only what has failed takes this long; a loaded machine may take most of it."""


async def eventually(condition: Callable[[], bool], seconds: float = SECONDS_MAX) -> None:
    """Return once the condition holds; fail after that many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(POLL_SECONDS)


async def eventually_answered(condition: Callable[[], Awaitable[bool]], seconds: float = SECONDS_MAX) -> None:
    """Return once an asynchronous condition holds; fail after that many seconds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(POLL_SECONDS)


def eventually_sync(condition: Callable[[], bool], seconds: float = SECONDS_MAX) -> None:
    """Return once the condition holds, outside an event loop; fail after that many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(POLL_SECONDS)


async def turns(count: int = 1) -> None:
    """Run that many iterations of the event loop: ready callbacks have then run, without waiting."""
    for _ in range(count):
        await asyncio.sleep(0)


async def given_up(call: asyncio.Task[Any]) -> None:
    """Cancel a call and wait for its end."""
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
