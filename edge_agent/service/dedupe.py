"""Answers remembered by request_id (AIP-155), so that a device's retry gets the same answer without a second run.

A bounded window in memory: the oldest answers are forgotten first. A retry that comes while the first call still runs
waits for it. A failed call is not remembered: its retry is a new try.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from edge_agent.errors import InvalidRequest

Response = TypeVar("Response")
REQUEST_ID_CHARS_MAX = 64


@dataclass
class _Entry(Generic[Response]):
    content: bytes
    at: float
    answer: asyncio.Task[Response]


class Deduplicator(Generic[Response]):
    """The window of one method. One event loop owns it."""

    def __init__(self, entries_max: int, seconds_max: float) -> None:
        """Remember at most that many answers, each for that long."""
        self._entries_max = entries_max
        self._seconds_max = seconds_max
        self._entries: OrderedDict[str, _Entry[Response]] = OrderedDict()

    async def run(
        self, request_id: str, content: bytes, compute: Callable[[], Awaitable[Response]], client: str = ""
    ) -> Response:
        """Return the remembered answer to this id of this client, or compute it.

        Raises:
            InvalidRequest: the id is too long, or was used for another request.
        """
        if not request_id or self._entries_max == 0:
            return await compute()
        if len(request_id) > REQUEST_ID_CHARS_MAX:
            raise InvalidRequest(f"request_id has {len(request_id)} characters; the limit is {REQUEST_ID_CHARS_MAX}")
        digest = hashlib.sha256(content).digest()
        self._forget_old()
        key = f"{client}\n{request_id}"
        entry = self._entries.get(key) or self._start(key, digest, compute)
        if entry.content != digest:
            raise InvalidRequest(
                "this request_id was used for another request", remedy="Use a new UUID4 for each request."
            )
        # Shielded: the caller who went away first must not take the answer from the one who tries again.
        return await asyncio.shield(entry.answer)

    def _start(self, key: str, content: bytes, compute: Callable[[], Awaitable[Response]]) -> _Entry[Response]:
        while len(self._entries) >= self._entries_max:
            self._entries.popitem(last=False)
        entry = _Entry(content, _now(), asyncio.ensure_future(_awaited(compute)))
        self._entries[key] = entry
        # Here and not where it is awaited: it may fail after its last caller went away.
        entry.answer.add_done_callback(lambda answer: self._forget_failed(key, answer))
        return entry

    def _forget_failed(self, key: str, answer: asyncio.Task[Response]) -> None:
        failed = answer.cancelled() or answer.exception() is not None
        entry = self._entries.get(key)
        if failed and entry is not None and entry.answer is answer:
            del self._entries[key]

    def _forget_old(self) -> None:
        limit = _now() - self._seconds_max
        while self._entries and next(iter(self._entries.values())).at <= limit:
            self._entries.popitem(last=False)


async def _awaited(compute: Callable[[], Awaitable[Response]]) -> Response:
    return await compute()


def _now() -> float:
    return asyncio.get_running_loop().time()
