"""A future that gets its outcome once, whoever is first to know it."""

from __future__ import annotations

import asyncio

from edge_agent.errors import EdgeAgentError


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
