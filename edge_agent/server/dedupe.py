"""Answers remembered by request_id (AIP-155), so that a device's retry gets the same answer without a second run.

A bounded window in memory, in entries and in bytes: the oldest answers are forgotten first. A retry that comes while
the first call still runs waits for it. A run is never forgotten: runs are calls in progress, which have a limit of
their own. A failed call is not remembered: its retry is a new try.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from edge_agent.errors import InvalidRequest
from edge_agent.server.detached_task import DetachedTask

REQUEST_ID_CHARS_MAX = 64
ENTRY_BYTES = 1024
"""Counted for each entry beside its answer: id, client, digest, and the objects that hold them."""

Response = TypeVar("Response", bound=Message)
_Call = tuple[str, str, str]


@dataclass(frozen=True)
class WindowLimits:
    """How much is remembered, and for how long."""

    entries_max: int
    """0 = nothing is."""
    seconds_max: float
    bytes_max: int
    """Of all entries; an answer that alone is larger is not remembered."""


class _Run(NamedTuple):
    """A call that runs."""

    content: bytes
    answer: DetachedTask[Any]


@dataclass(frozen=True)
class _Answer:
    """What came of a call, as it travels: only bytes can be counted."""

    content: bytes
    at: float
    kind: type[Message]
    data: bytes

    @property
    def size(self) -> int:
        return ENTRY_BYTES + len(self.data)


class Deduplicator:
    """The window of one daemon. One event loop owns it; `stop` ends what still runs."""

    def __init__(self, limits: WindowLimits) -> None:
        """Begin with nothing."""
        self._limits = limits
        self._runs: dict[_Call, _Run] = {}
        self._answers: OrderedDict[_Call, _Answer] = OrderedDict()
        self._answers_bytes = 0

    @property
    def used_bytes(self) -> int:
        """What answers and runs are counted as."""
        return self._answers_bytes + ENTRY_BYTES * len(self._runs)

    async def run(self, call: _Call, content: bytes, compute: Callable[[], Awaitable[Response]]) -> Response:
        """Return the remembered answer to a call, or compute it; the call is a client, what it calls, and its id.

        A run goes on when its callers leave, for the one that tries again.

        Raises:
            InvalidRequest: the id is too long, or was used for another request.
        """
        request_id = call[-1]
        if not request_id or self._limits.entries_max == 0:
            return await compute()
        if len(request_id) > REQUEST_ID_CHARS_MAX:
            raise InvalidRequest(f"request_id has {len(request_id)} characters; the limit is {REQUEST_ID_CHARS_MAX}")
        digest = hashlib.sha256(content).digest()
        self._forget_old()
        known = self._answers.get(call) or self._runs.get(call)
        if known is not None and known.content != digest:
            raise InvalidRequest(
                "this request_id was used for another request", remedy="Use a new UUID4 for each request."
            )
        if isinstance(known, _Answer):
            return known.kind.FromString(known.data)  # type: ignore[return-value]  # the key names the method
        answer: Response = await (known or self._start(call, digest, compute)).answer.result()
        return answer

    async def stop(self) -> None:
        """End the runs, and return when they have ended; to be called when no call can come any more."""
        tasks = [run.answer.task for run in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, call: _Call, content: bytes, compute: Callable[[], Awaitable[Message]]) -> _Run:
        run = _Run(content, DetachedTask(call[1], _awaited(compute), lambda: self._ended(call)))
        self._runs[call] = run
        self._make_room()
        return run

    def _ended(self, call: _Call) -> None:
        run = self._runs.pop(call)
        task = run.answer.task
        if task.cancelled() or task.exception() is not None:
            return
        message = task.result()
        answer = _Answer(run.content, _now(), type(message), message.SerializeToString())
        if answer.size <= self._limits.bytes_max:
            self._answers[call] = answer
            self._answers_bytes += answer.size
            self._make_room()

    def _make_room(self) -> None:
        limits, runs = self._limits, len(self._runs)
        while self._answers and (self.used_bytes > limits.bytes_max or len(self._answers) + runs > limits.entries_max):
            self._forget_oldest()

    def _forget_old(self) -> None:
        limit = _now() - self._limits.seconds_max
        while self._answers and next(iter(self._answers.values())).at <= limit:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, answer = self._answers.popitem(last=False)
        self._answers_bytes -= answer.size


async def _awaited(compute: Callable[[], Awaitable[Message]]) -> Message:
    return await compute()


def _now() -> float:
    return asyncio.get_running_loop().time()
