"""One call over HTTP: it has a place, a deadline and an id, and ends when its caller goes away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from edge_agent.client import CallFailed
from edge_agent.web.gateway import answers, reading, refusals
from edge_agent.web.gateway.refusals import QUEUE_FULL, Refused

TIMEOUT_SECONDS_DEFAULT = 60.0
"""As the daemon gives calls that name none (service.deadline_seconds_default)."""
TIMEOUT_SECONDS_MAX = 3600.0
BODY_SECONDS_MAX = 20.0
"""So long a body may be on its way; who sends it slower would hold a place for nothing."""
UNREAD_SECONDS_MAX = 5.0
"""After the deadline a stream's last event may still wait so long for its reader."""
TIMEOUT_HEADER = "x-request-timeout"
LIBRARY_HEADER = "x-stainless-read-timeout"
"""Sent by the `openai` library: so long it waits for the first byte."""
ID_HEADERS = ("idempotency-key", "x-request-id")
_BUSY_SECONDS = 1.0
_JSON = "application/json"
_T = TypeVar("_T")


class Places:
    """How many calls are in progress, and may be. One event loop owns it."""

    def __init__(self, most: int) -> None:
        """Have so many."""
        self._most = most
        self._taken = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Take one until the end of the block. Raises Refused when there is none."""
        if self._taken >= self._most:
            said = f"{self._taken} calls are in progress here, which is the limit"
            refused = Refused(said, remedy=f"Try again in {_BUSY_SECONDS:g} s.", reason=QUEUE_FULL)
            refused.status, refused.retry_seconds = refusals.STATUSES["RESOURCE_EXHAUSTED"], _BUSY_SECONDS
            raise refused
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


@dataclass(frozen=True)
class Call:
    """What is asked."""

    body: bytes
    path: Mapping[str, str]
    request_id: str
    ends_at: float
    """On the event loop's clock."""

    @property
    def seconds_left(self) -> float:
        """How long it may still take; gRPC takes no less than nothing."""
        return max(0.001, self.ends_at - asyncio.get_running_loop().time())


class Endpoint:
    """Serves one path: an application of its own, so that it sees when its caller goes."""

    def __init__(self, answer: Callable[[Call], Awaitable[Response]], places: Places, inputs: str = "") -> None:
        """`inputs` is the member of the body that holds what is asked, for errors that concern it."""
        self._answer = answer
        self._places = places
        self._inputs = inputs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            with self._places.one():
                response = await self._response(request)
                if given := _request_id(request.headers):
                    response.headers["x-request-id"] = given
                await response(scope, receive, send)
        except Refused as refused:
            await refusal(refused)(scope, receive, send)
        except ClientDisconnect:
            return  # nobody is there to be told

    async def _response(self, request: Request) -> Response:
        try:
            call = await _read(request)
            return await unless_gone(request.receive, self._answer(call))
        except CallFailed as failed:
            return refusal(refusals.of_call(failed, self._inputs))
        except Refused as refused:
            return refusal(refused)


def refusal(refused: Refused) -> Response:
    """Write a refusal."""
    return JSONResponse(refused.plain(), refused.status, refused.headers())


async def _read(request: Request) -> Call:
    """Read a request whole. Raises Refused, ClientDisconnect."""
    seconds = timeout_seconds(request.headers)
    ends_at = asyncio.get_running_loop().time() + seconds
    kind = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
    # Also for safety: a page elsewhere can make a browser send forms and plain text here, but not JSON.
    if request.method == "POST" and kind != _JSON:
        raise Refused(f"the body is of type {kind[:80]!r}", remedy=f"Send JSON, with 'Content-Type: {_JSON}'.")
    try:
        async with asyncio.timeout(min(seconds, BODY_SECONDS_MAX)):
            body = await request.body()
    except TimeoutError:
        raise Refused("the body did not come in time", reason="DEADLINE_EXPIRED") from None
    return Call(body, request.path_params, _request_id(request.headers), ends_at)


def _request_id(headers: Headers) -> str:
    return next((headers[name] for name in ID_HEADERS if headers.get(name)), "")


def timeout_seconds(headers: Mapping[str, str]) -> float:
    """Return how long a call may take: what the caller says, or the default; the library's own can shorten that."""
    if given := headers.get(TIMEOUT_HEADER):
        return _seconds(given)
    try:
        waits = reading.number(0.001, TIMEOUT_SECONDS_DEFAULT)(float(headers.get(LIBRARY_HEADER, "inf")))
    except ValueError:
        return TIMEOUT_SECONDS_DEFAULT
    return waits


def _seconds(given: str) -> float:
    try:
        return reading.number(0.001, TIMEOUT_SECONDS_MAX)(float(given))
    except ValueError:
        said = (
            f"the header {TIMEOUT_HEADER} must be seconds, from 0.001 to {TIMEOUT_SECONDS_MAX:g}; it is {given[:40]!r}"
        )
        raise Refused(said, param=TIMEOUT_HEADER) from None


async def unless_gone(receive: Receive, work: Awaitable[_T]) -> _T:
    """Do the work to its end, or until the caller is gone: then it is cancelled. Raises ClientDisconnect."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for each in (working, leaving):
            each.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Events, sent as they come."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[answers.Plain, None], seconds: float) -> None:
        """Send them, for so long at most: also a caller who does not read them holds a place."""
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send. Raises ClientDisconnect when the caller goes, or does not read."""
        async with contextlib.aclosing(self._events):
            await unless_gone(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        try:
            async with asyncio.timeout(self._seconds + UNREAD_SECONDS_MAX):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                end = answers.END
                async for plain in self._events:
                    await send(_part(answers.event(plain)))
                    end = b"" if "error" in plain else end
                await send(_part(end, more=False))
        except TimeoutError:
            raise ClientDisconnect from None


def _part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}
