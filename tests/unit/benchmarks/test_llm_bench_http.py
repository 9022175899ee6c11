"""The HTTP client of scripts/bench llm against a server with scripted bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.llama.http import ConnectionPool
from tests.support.eventually import eventually

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """Answers each request with the next scripted answer, on any number of connections."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.hung_up = asyncio.Event()
        self.open: set[asyncio.StreamWriter] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.asked.append((head.partition(b"\r\n")[0], await reader.readexactly(length)))
                writer.write(self.answers.pop(0))
        except asyncio.IncompleteReadError:
            self.hung_up.set()
            writer.close()
            await writer.wait_closed()
            self.open.remove(writer)


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[ConnectionPool]:
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    try:
        async with ConnectionPool(listener.sockets[0].getsockname()[1]) as pool:
            yield pool
        await eventually(lambda: not server.open)
    finally:
        listener.close()
        await listener.wait_closed()


def plain(answer: object) -> bytes:
    body = json.dumps(answer).encode()
    return PLAIN % (len(body), body)


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


async def test_connection_is_reused_by_sequential_calls() -> None:
    """Two sequential calls use the same connection, and each gets its own answer."""
    server = Server(plain({"a": 1}), plain([2]))
    async with serving(server) as pool:
        assert {"a": 1} == await pool.post("/completion", {"prompt": "x"})
        assert [2] == await pool.get("/slots")
    assert [(b"POST /completion HTTP/1.1", b'{"prompt": "x"}'), (b"GET /slots HTTP/1.1", b"")] == server.asked
    assert 1 == server.connections


async def test_connection_with_close_header_is_not_reused() -> None:
    """The client opens a new connection after an answer with `Connection: close`."""
    closing = plain(1).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    server = Server(closing, plain(2))
    async with serving(server) as pool:
        assert [1, 2] == [await pool.get("/"), await pool.get("/")]
    assert 2 == server.connections


async def test_concurrent_calls_use_separate_connections() -> None:
    """Two concurrent calls use two connections, so neither waits for the other."""
    server = Server(plain(0), plain(0))
    async with serving(server) as pool:
        await asyncio.gather(pool.get("/"), pool.get("/"))
    assert 2 == server.connections


async def test_stream_events_are_independent_of_chunk_boundaries() -> None:
    """The client yields each event once, even if an event spans two chunks or two events share one; then it reuses the
    connection."""
    body = chunked(b'data: {"n"', b': 1}\n\ndata: {"n": 2}\n\ndata: {"n": 3}\n\n', b": a word\n\n")
    server = Server(STREAM + body, plain(0))
    async with serving(server) as pool:
        assert [{"n": 1}, {"n": 2}, {"n": 3}] == [event async for event in pool.stream("/completion", {})]
        await pool.get("/")
    assert 1 == server.connections


async def test_abandoned_stream_closes_its_connection() -> None:
    """If the caller closes a stream early, the client closes the connection so that the server stops writing."""
    server = Server(STREAM + b"11\r\n" + b'data: {"n": 12}\n\n' + b"\r\n")
    async with serving(server) as pool:
        events = pool.stream("/completion", {})
        assert {"n": 12} == await anext(events)
        await events.aclose()
        await asyncio.wait_for(server.hung_up.wait(), 10)


async def test_refusal_of_the_server_is_raised_with_its_message() -> None:
    """An error answer of the server raises a ConnectionError with the server's message."""
    refused = plain({"error": "no such slot"}).replace(b"200 OK", b"400 Bad Request")
    async with serving(Server(refused)) as pool:
        with pytest.raises(ConnectionError, match="no such slot"):
            await pool.get("/slots")
