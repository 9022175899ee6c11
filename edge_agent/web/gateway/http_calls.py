"""One call over HTTP: it takes a slot, has a deadline and an id, and ends when its caller disconnects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from edge_agent.client import CallFailed
from edge_agent.errors import DocumentInvalid
from edge_agent.formats import compression
from edge_agent.refusal_log import RefusalLog
from edge_agent.web.gateway import openai_responses, request_json
from edge_agent.web.gateway.openai_responses import MESSAGE_TOO_LARGE, QUEUE_FULL, GatewayError
from edge_agent.web.request_guard import HTTP, client_name

TIMEOUT_SECONDS_DEFAULT = 60.0
"""The daemon's default deadline (service.deadline_seconds_default)."""
TIMEOUT_SECONDS_MAX = 3600.0
BODY_SECONDS_MAX = 20.0
"""Longest time for a body to arrive: a slower caller would hold a slot without work."""
DECOMPRESSED_BYTES_MAX = 16 * 2**20
"""Largest body after decompression, in bytes: four times the default of `web.body_bytes_max`."""
UNREAD_SECONDS_MAX = 5.0
"""Longest wait, after the deadline, for the reader of a stream's last event."""
TIMEOUT_HEADER = "x-request-timeout"
LIBRARY_HEADER = "x-stainless-read-timeout"
"""How long the `openai` library waits for the first byte."""
ID_HEADERS = ("idempotency-key", "x-request-id")
_BUSY_SECONDS = 1.0
_JSON = "application/json"
_T = TypeVar("_T")


class CallSlots:
    """A limit on calls in progress. One event loop owns it."""

    def __init__(self, limit: int) -> None:
        """Set the limit."""
        self._limit = limit
        self._in_progress = 0

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Take a slot for the block. Raises GatewayError when all are taken."""
        if self._in_progress >= self._limit:
            message = f"{self._in_progress} calls are in progress here, which is the limit"
            error = GatewayError(message, remedy=f"Try again in {_BUSY_SECONDS:g} s.", reason=QUEUE_FULL)
            error.status, error.retry_seconds = openai_responses.STATUSES["RESOURCE_EXHAUSTED"], _BUSY_SECONDS
            raise error
        self._in_progress += 1
        try:
            yield
        finally:
            self._in_progress -= 1


@dataclass(frozen=True)
class GatewayCall:
    """A request, read whole."""

    body: bytes
    path: Mapping[str, str]
    request_id: str
    ends_at: float
    """On the event loop's clock."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float:
        """Time left until the deadline; at least 1 ms, as gRPC needs a positive timeout."""
        return max(0.001, self.ends_at - asyncio.get_running_loop().time())


class GatewayEndpoint:
    """Serves one path, as an ASGI application so that it notices when its caller disconnects."""

    def __init__(
        self,
        answer: Callable[[GatewayCall], Awaitable[Response]],
        slots: CallSlots,
        refusals: RefusalLog,
        inputs: str = "",
        *,
        detailed: bool = False,
    ) -> None:
        """`inputs` names the member of the body that errors about an input refer to.

        `detailed` adds the member `detail` to errors, where TypeSafe's API has the message.
        """
        self._answer, self._slots, self._refusals = answer, slots, refusals
        self._inputs, self._detailed = inputs, detailed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            with self._slots.take():
                response = await self._response(request)
                if request_id := _request_id(request.headers):
                    response.headers["x-request-id"] = request_id
                await response(scope, receive, send)
        except GatewayError as error:
            await self._error_response(error, scope)(scope, receive, send)
        except ClientDisconnect:
            return  # the caller has disconnected

    async def _response(self, request: Request) -> Response:
        try:
            call = await _read_call(request)
            return await run_until_disconnect(request.receive, self._answer(call))
        except CallFailed as failure:
            return self._error_response(openai_responses.from_call_failure(failure, self._inputs), request.scope)
        except GatewayError as error:
            return self._error_response(error, request.scope)

    def _error_response(self, error: GatewayError, scope: Scope) -> Response:
        """Record a refusal, and return its response."""
        self._refusals.record(HTTP, client_name(scope), error.reason)
        body = error.as_json()
        if self._detailed:
            body["detail"] = body["error"]["message"]
        return JSONResponse(body, error.status, error.headers())


async def _read_call(request: Request) -> GatewayCall:
    """Read a request whole. Raises GatewayError, ClientDisconnect."""
    seconds = timeout_seconds(request.headers)
    ends_at = asyncio.get_running_loop().time() + seconds
    content_type = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
    # Also for security: another site's page can make a browser send forms and plain text here, but not JSON.
    if request.method == "POST" and content_type != _JSON:
        message = f"the body is of type {content_type[:80]!r}"
        raise GatewayError(message, remedy=f"Send JSON, with 'Content-Type: {_JSON}'.")
    try:
        async with asyncio.timeout(min(seconds, BODY_SECONDS_MAX)):
            body = await request.body()
    except TimeoutError:
        error = GatewayError("the body did not come in time", reason="DEADLINE_EXPIRED")
        error.status = openai_responses.STATUSES["DEADLINE_EXCEEDED"]
        raise error from None
    body = _decompress_body(body, request.headers.get("content-encoding", "identity").strip().lower())
    return GatewayCall(body, request.path_params, _request_id(request.headers), ends_at, request.headers)


def _decompress_body(body: bytes, encoding: str) -> bytes:
    """Decompress a body. Raises GatewayError when it is damaged, too large, or encoded another way."""
    if encoding == "identity":
        return body
    if encoding != "zstd":
        remedy = "Send it as it is, or compressed with zstd."
        raise GatewayError(f"the body is encoded as {encoding[:40]!r}", param="content-encoding", remedy=remedy)
    try:
        return compression.decompress(body, DECOMPRESSED_BYTES_MAX)
    except compression.TooLarge:
        message = f"the body decompresses to more than {DECOMPRESSED_BYTES_MAX} bytes"
        raise GatewayError(message, remedy="Send fewer or shorter texts.", reason=MESSAGE_TOO_LARGE) from None
    except DocumentInvalid as error:
        raise GatewayError(f"the body does not decompress: {error}") from None


def _request_id(headers: Headers) -> str:
    return next((headers[name] for name in ID_HEADERS if headers.get(name)), "")


def timeout_seconds(headers: Mapping[str, str]) -> float:
    """Return the timeout of a call: the caller's header or the default, which the library's header can shorten."""
    if value := headers.get(TIMEOUT_HEADER):
        try:
            return request_json.number_in(0.001, TIMEOUT_SECONDS_MAX)(float(value))
        except ValueError:
            rule = f"must be seconds, from 0.001 to {TIMEOUT_SECONDS_MAX:g}; it is {value[:40]!r}"
            raise GatewayError(f"the header {TIMEOUT_HEADER} {rule}", param=TIMEOUT_HEADER) from None
    try:
        return request_json.number_in(0.001, TIMEOUT_SECONDS_DEFAULT)(float(headers.get(LIBRARY_HEADER, "inf")))
    except ValueError:
        return TIMEOUT_SECONDS_DEFAULT


async def run_until_disconnect(receive: Receive, work: Awaitable[_T]) -> _T:
    """Return the result of the work; cancel it when the caller disconnects. Raises ClientDisconnect."""
    work_task, disconnect_task = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({work_task, disconnect_task}, return_when=asyncio.FIRST_COMPLETED)
        if not work_task.done():
            raise ClientDisconnect
        return work_task.result()
    finally:
        for task in (work_task, disconnect_task):
            task.cancel()
        await asyncio.gather(work_task, disconnect_task, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A response of server-sent events."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[openai_responses.JsonObject, None], seconds: float) -> None:
        """`seconds` bounds the whole stream, since a caller that does not read holds a slot too."""
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._seconds = events, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send. Raises ClientDisconnect when the caller disconnects, or does not read."""
        async with contextlib.aclosing(self._events):
            await run_until_disconnect(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        try:
            async with asyncio.timeout(self._seconds + UNREAD_SECONDS_MAX):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                end = openai_responses.END
                async for event in self._events:
                    await send(_body_message(openai_responses.sse_event(event)))
                    end = b"" if "error" in event else end
                await send(_body_message(end, more=False))
        except TimeoutError:
            raise ClientDisconnect from None


def _body_message(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}
