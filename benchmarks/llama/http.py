"""HTTP/1.1 with connections kept open, and no more than llama-server's answers need: the least that a caller can cost.

A library costs ten times as much for each piece of a stream, on the processor that llama-server computes with.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Any, Self

import msgspec

_END, _DATA = b"\r\n\r\n", b"data: "
_decode = msgspec.json.Decoder().decode


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.kept = True
        """The server will take another request."""
        self._chunked, self._length = False, 0

    async def ask(self, method: str, path: str, body: bytes) -> None:
        """Send a request and read the head of its answer."""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        status, *lines = (await self._reader.readuntil(_END)).decode("latin-1").lower().splitlines()
        fields = dict(line.split(": ", 1) for line in lines if line)
        self._chunked = fields.get("transfer-encoding") == "chunked"
        self._length = int(fields.get("content-length", 0))
        self.kept = fields.get("connection") != "close"
        if " 200 " not in f"{status} ":
            raise ConnectionError(f"{status}: {await self.body()!r}")

    async def body(self) -> bytes:
        """Read all of the answer."""
        if self._chunked:
            return b"".join([chunk async for chunk in self.chunks()])
        return await self._reader.readexactly(self._length)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Read an answer as it comes."""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            chunk = await self._reader.readexactly(size + 2)
            yield chunk[:-2]
        await self._reader.readuntil(b"\r\n")

    def close(self) -> None:
        self._writer.close()


class ConnectionPool:
    """Connections to one port of this machine. A request takes one that is free, or opens another."""

    def __init__(self, port: int) -> None:
        """Note the port."""
        self._port = port
        self._free: list[_Connection] = []

    async def __aenter__(self) -> Self:
        """Open nothing yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the idle connections."""
        for connection in self._free:
            connection.close()

    async def get(self, path: str) -> Any:
        """Return an answer's JSON."""
        return await self._whole("GET", path, b"")

    async def post(self, path: str, asked: dict[str, Any]) -> Any:
        """Return the answer's JSON."""
        return await self._whole("POST", path, json.dumps(asked).encode())

    async def _whole(self, method: str, path: str, body: bytes) -> Any:
        connection = await self._asked(method, path, body)
        answer = _decode(await connection.body())
        self._give_back(connection)
        return answer

    async def stream(self, path: str, asked: dict[str, Any]) -> AsyncGenerator[Any]:
        """Yield the events of an answer; a caller that leaves before the last one closes the connection."""
        connection = await self._asked("POST", path, json.dumps(asked).encode())
        held, ended = b"", False
        try:
            async for chunk in connection.chunks():
                *events, held = (held + chunk).split(b"\n\n")
                for event in events:
                    if event.startswith(_DATA):
                        yield _decode(event[len(_DATA) :])
            ended = True
        finally:
            if ended:
                self._give_back(connection)
            else:
                connection.close()

    async def _asked(self, method: str, path: str, body: bytes) -> _Connection:
        """Send a request on a connection that is free; the server may have closed it by now."""
        while self._free:
            connection = self._free.pop()
            try:
                await connection.ask(method, path, body)
                return connection
            except (asyncio.IncompleteReadError, ConnectionResetError, BrokenPipeError):
                connection.close()
        connection = _Connection(*await asyncio.open_connection("127.0.0.1", self._port, limit=2**20))
        try:
            await connection.ask(method, path, body)
        except ConnectionError:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: _Connection) -> None:
        if connection.kept:
            self._free.append(connection)
        else:
            connection.close()
