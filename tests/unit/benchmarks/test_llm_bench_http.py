"""The HTTP of scripts/bench llm, against a server that answers byte by byte as a test wants it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.llama.http import Pool
from tests.support.eventually import eventually

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """Answers each request with the next of its answers, on as many connections as come."""

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
async def serving(server: Server) -> AsyncIterator[Pool]:
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    try:
        async with Pool(listener.sockets[0].getsockname()[1]) as pool:
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


async def test_a_connection_is_kept() -> None:
    """Two calls after each other take the same one; the second gets its own answer."""
    server = Server(plain({"a": 1}), plain([2]))
    async with serving(server) as pool:
        assert {"a": 1} == await pool.post("/completion", {"prompt": "x"})
        assert [2] == await pool.get("/slots")
    assert [(b"POST /completion HTTP/1.1", b'{"prompt": "x"}'), (b"GET /slots HTTP/1.1", b"")] == server.asked
    assert 1 == server.connections


async def test_a_connection_that_the_server_will_close_is_not_taken_again() -> None:
    """It says so in its answer."""
    closing = plain(1).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    server = Server(closing, plain(2))
    async with serving(server) as pool:
        assert [1, 2] == [await pool.get("/"), await pool.get("/")]
    assert 2 == server.connections


async def test_calls_at_the_same_time_have_connections_of_their_own() -> None:
    """None waits for another."""
    server = Server(plain(0), plain(0))
    async with serving(server) as pool:
        await asyncio.gather(pool.get("/"), pool.get("/"))
    assert 2 == server.connections


async def test_events_come_as_they_are_whatever_the_chunks() -> None:
    """One in two chunks, two in one; and the connection is kept."""
    body = chunked(b'data: {"n"', b': 1}\n\ndata: {"n": 2}\n\ndata: {"n": 3}\n\n', b": a word\n\n")
    server = Server(STREAM + body, plain(0))
    async with serving(server) as pool:
        assert [{"n": 1}, {"n": 2}, {"n": 3}] == [event async for event in pool.stream("/completion", {})]
        await pool.get("/")
    assert 1 == server.connections


async def test_a_stream_that_is_left_hangs_up() -> None:
    """So that the server stops writing."""
    server = Server(STREAM + b"11\r\n" + b'data: {"n": 12}\n\n' + b"\r\n")
    async with serving(server) as pool:
        events = pool.stream("/completion", {})
        assert {"n": 12} == await anext(events)
        await events.aclose()
        await asyncio.wait_for(server.hung_up.wait(), 10)


async def test_what_the_server_refuses_is_said() -> None:
    """With its words."""
    refused = plain({"error": "no such slot"}).replace(b"200 OK", b"400 Bad Request")
    async with serving(Server(refused)) as pool:
        with pytest.raises(ConnectionError, match="no such slot"):
            await pool.get("/slots")
