"""A future that gets its outcome once, whoever is first to know it; and the outcome where no child can be run."""

from __future__ import annotations

import asyncio

from edge_agent.errors import EdgeAgentError, EngineNotReady

START_REMEDY = (
    "It is tried again, with growing pauses. If it stays: raise LimitNOFILE= or TasksMax= of the service, free some "
    "memory, or end what takes so many processes."
)


def resolve(future: asyncio.Future[None], error: EdgeAgentError | None) -> None:
    """Give a future its outcome unless it has one; an error that nobody awaits is logged elsewhere."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # marks it as seen: asyncio would complain of an error that nobody awaited


def succeeded(future: asyncio.Future[None]) -> bool:
    """Tell whether it is done, and well."""
    return future.done() and not future.cancelled() and future.exception() is None


def not_started(why: str, pause_seconds: float) -> EngineNotReady:
    """Return what those are told who wait for an engine whose process this machine does not let begin."""
    said = f"the model's process cannot be run: {why}; it is tried again"
    return EngineNotReady(said, retry_seconds=max(pause_seconds, 1.0), remedy=START_REMEDY)
