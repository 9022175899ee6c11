"""One response for each `request_id`: a device that sends a request again gets the stored one, without a second run.

The request is the same if client, method and `request_id` are (AIP-155). The store is bounded in entries and in bytes,
and drops the oldest responses first. A retry that comes while the first call still runs waits for it. A running request
is never dropped: running calls have a limit of their own. A failed call is not stored, so its retry is a new try; nor
is a response in which an input has failed for another reason than its own text. A retry that has waited for a call
whose deadline passed is a new try, too: its own deadline is later.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from edge_agent.engine.child_process_watch import loop_time
from edge_agent.errors import (
    BY_REASON,
    CallerError,
    DeadlineExpired,
    InputQuarantined,
    InvalidRequest,
    RequestCancelled,
)
from edge_agent.server.detached_calls import DetachedTask

REQUEST_ID_CHARS_MAX = 64
ENTRY_BYTES = 1024
"""Counted for each entry in addition to its response: id, client, digest, and the objects that hold them."""
FAULTS_OF_INPUT = frozenset(reason for reason, cls in BY_REASON.items() if issubclass(cls, CallerError)) - {
    DeadlineExpired.reason,
    RequestCancelled.reason,
} | {InputQuarantined.reason}
"""The reasons with which an input fails on every try."""
Response = TypeVar("Response", bound=Message)
_RequestKey = tuple[str, str, str]
"""Client, method and request_id."""


@dataclass(frozen=True)
class DeduplicationLimits:
    """How many responses are stored, and for how long."""

    entries_max: int
    """0 = none."""
    seconds_max: float
    bytes_max: int
    """Of all entries; a larger single response is not stored."""


class _RunningRequest(NamedTuple):
    digest: bytes
    response: DetachedTask[Any]


@dataclass(frozen=True)
class _StoredResponse:
    """A response in its serialized form: only bytes can be counted."""

    digest: bytes
    stored_at: float
    kind: type[Message]
    data: bytes

    @property
    def size(self) -> int:
        return ENTRY_BYTES + len(self.data)


class RequestDeduplicator:
    """The requests of one daemon by request_id. One event loop owns it; `stop` ends those that run."""

    def __init__(self, limits: DeduplicationLimits) -> None:
        """Begin with none."""
        self._limits = limits
        self._running: dict[_RequestKey, _RunningRequest] = {}
        self._stored: OrderedDict[_RequestKey, _StoredResponse] = OrderedDict()
        self._stored_bytes = 0

    @property
    def used_bytes(self) -> int:
        """The bytes counted for stored and running requests."""
        return self._stored_bytes + ENTRY_BYTES * len(self._running)

    async def run(
        self, key: _RequestKey, content: bytes, compute: Callable[[], Coroutine[Any, Any, Response]]
    ) -> Response:
        """Return the stored response to a request, or compute it.

        A computation continues when its callers leave, because one of them may try again.

        Args:
            key: client, method and request_id.
            content: the serialized request.
            compute: computes the response.

        Raises:
            InvalidRequest: the id is too long, or was used for another request.
        """
        request_id = key[-1]
        if not request_id or self._limits.entries_max == 0:
            return await compute()
        if len(request_id) > REQUEST_ID_CHARS_MAX:
            raise InvalidRequest(f"request_id has {len(request_id)} characters; the limit is {REQUEST_ID_CHARS_MAX}")
        digest = hashlib.sha256(content).digest()
        while True:
            entry = self._find(key, digest)
            if isinstance(entry, _StoredResponse):
                return entry.kind.FromString(entry.data)  # type: ignore[return-value]  # the key names the method
            try:
                response: Response = await (entry or self._start(key, digest, compute)).response.result()
            except DeadlineExpired:
                if entry is None:
                    raise
            else:
                if entry is None or DeadlineExpired.reason not in _failures(response):
                    return response

    def _find(self, key: _RequestKey, digest: bytes) -> _StoredResponse | _RunningRequest | None:
        """Return the request of that key, stored or running. Raises InvalidRequest if it has another content."""
        oldest_stored_at = loop_time() - self._limits.seconds_max
        while self._stored and next(iter(self._stored.values())).stored_at <= oldest_stored_at:
            self._drop_oldest()
        entry = self._stored.get(key) or self._running.get(key)
        if entry is not None and entry.digest != digest:
            raise InvalidRequest(
                "this request_id was used for another request", remedy="Use a new UUID4 for each request."
            )
        return entry

    async def stop(self) -> None:
        """Cancel running requests and wait for their end; call it when no more calls can come."""
        tasks = [running.response.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(
        self, key: _RequestKey, digest: bytes, compute: Callable[[], Coroutine[Any, Any, Message]]
    ) -> _RunningRequest:
        running = _RunningRequest(digest, DetachedTask(key[1], compute(), lambda: self._store_result(key)))
        self._running[key] = running
        self._evict()
        return running

    def _store_result(self, key: _RequestKey) -> None:
        running = self._running.pop(key)
        task = running.response.task
        if task.cancelled() or task.exception() is not None:
            return
        message = task.result()
        if not FAULTS_OF_INPUT.issuperset(_failures(message)):
            return  # another try may have another result
        stored = _StoredResponse(running.digest, loop_time(), type(message), message.SerializeToString())
        if stored.size <= self._limits.bytes_max:
            self._stored[key] = stored
            self._stored_bytes += stored.size
            self._evict()

    def _evict(self) -> None:
        limits, running = self._limits, len(self._running)
        while self._stored and (self.used_bytes > limits.bytes_max or len(self._stored) + running > limits.entries_max):
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, stored = self._stored.popitem(last=False)
        self._stored_bytes -= stored.size


def _failures(response: Message) -> set[str]:
    """Return the reasons of the inputs that have failed."""
    return {each.error.reason for each in getattr(response, "results", ()) if each.HasField("error")}
