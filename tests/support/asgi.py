"""Calls an ASGI application without a network: one request, its answer, and the events that the application got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1:8390"


@dataclass
class AsgiResponse:
    """The response and its events."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode()


async def ask(
    app: Any,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | AsyncIterator[bytes] = b"",
    **scope: Any,
) -> AsgiResponse:
    """Send a request with a right Host, unless `headers` say another; `scope` is added to it."""
    parts = _parts(body)
    answered = AsgiResponse()

    async def receive() -> dict[str, Any]:
        try:
            return {"type": "http.request", "body": await anext(parts), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answered.status = message["status"]
            answered.headers = {name.decode(): said.decode() for name, said in message["headers"]}
        else:
            answered.body += message.get("body", b"")

    await app(_scope(path, method, {"host": HOST, **(headers or {})}, scope), receive, send)
    return answered


def _scope(path: str, method: str, headers: Mapping[str, str], more: Mapping[str, Any]) -> dict[str, Any]:
    plain, _, query = path.partition("?")
    return {
        "type": "http",
        "method": method,
        "path": plain,
        "raw_path": plain.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "scheme": "http",
        "headers": [(name.lower().encode(), said.encode()) for name, said in headers.items()],
        "state": {},
        **more,
    }


async def _parts(body: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        if body:
            yield body
        return
    async for part in body:
        yield part


async def never() -> AsyncIterator[bytes]:
    """A request body that never arrives."""
    await asyncio.Event().wait()
    yield b""
