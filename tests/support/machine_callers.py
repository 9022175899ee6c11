"""Callers on a booted machine, run there by the installed program's Python until SIGTERM; calls that run then end.

Each outcome is a line: the kind of caller and what became of its call, with the reason where it got no answer.

    streams   "began" with its first piece, then "whole" or "cut"; "refused" before that
    once      "answered" or "refused"; these callers make each call once
    patient   "answered" or "failed"; these try again
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable

from edge_agent.client import AsyncClient, CallFailed, Retry

CALLERS = 3
"""Of each kind."""
PAUSE_SECONDS = 0.05
TEXT = "!slow 200 one two three four five six"
TARGET = "unix:/run/edge-agent/inference.sock"


def say(*words: str) -> None:
    """Write an outcome."""
    sys.stdout.write(f"{' '.join(words)}\n")
    sys.stdout.flush()


async def stream(client: AsyncClient, writer: str) -> None:
    """Let the writer write. Raises CallFailed."""
    begun = False
    try:
        async for _ in client.generate(writer, TEXT):
            if not begun:
                say("streams", "began")
            begun = True
    except CallFailed as failed:
        say("streams", "cut" if begun else "refused", failed.code, failed.reason, failed.message)
        raise
    say("streams", "whole")


async def ask(client: AsyncClient, task: str, kind: str, otherwise: str) -> None:
    """Ask a task for a label. Raises CallFailed."""
    try:
        await client.classify(task, ["!slow 20 refund"], timeout_seconds=60)
    except CallFailed as failed:
        say(kind, otherwise, failed.code, failed.reason, failed.message)
        raise
    say(kind, "answered")


async def over_and_over(call: Callable[[], Awaitable[None]], stopped: asyncio.Event) -> None:
    """Make a call repeatedly; after a refusal, wait for the daemon's retry delay."""
    while not stopped.is_set():
        pause = PAUSE_SECONDS
        try:
            await call()
        except CallFailed as failed:
            pause = failed.retry_after_seconds or PAUSE_SECONDS
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), pause)


async def main(task: str, writer: str) -> None:
    """Call until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with (
        AsyncClient(TARGET) as once,
        AsyncClient(TARGET, retry=Retry()) as patient,
        asyncio.TaskGroup() as callers,
    ):
        for _ in range(CALLERS):
            callers.create_task(over_and_over(lambda: stream(once, writer), stopped))
            callers.create_task(over_and_over(lambda: ask(once, task, "once", "refused"), stopped))
            callers.create_task(over_and_over(lambda: ask(patient, task, "patient", "failed"), stopped))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
