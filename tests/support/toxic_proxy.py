"""A TCP proxy that spoils connections: cuts them after some bytes, resets them, slows them down, or never answers.

with ToxicProxy(port) as proxy:
    proxy.toxic = ConnectionCut(1000)
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

CHUNK = 16 * 1024


@dataclass
class ConnectionCut:
    """Ends the connection once that many bytes of all connections have come from the client; `reset` = with RST."""

    after_bytes: int
    reset: bool = False


@dataclass
class CutAnswer:
    """Ends the connection once that many bytes of its answers have passed; `reset` = with RST."""

    after_bytes: int
    reset: bool = False


@dataclass
class SlowLink:
    """Passes that many bytes from the client each 10 ms."""

    bytes_each: int


class SilentServer:
    """Takes connections and everything they send, and never answers."""


class ToxicProxy:
    """Listens on `port`, in a thread of its own; `toxic` may be changed at any time and holds for new bytes."""

    def __init__(self, target_port: int) -> None:
        self.toxic: ConnectionCut | CutAnswer | SlowLink | SilentServer | None = None
        self.passed = 0
        self.answered = 0
        self.connections = 0
        self._target = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._server: asyncio.Server | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.CancelledError):
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            answers = asyncio.create_task(self._answer(there, writer))
            try:
                await self._forward(reader, writer, back)
            finally:
                answers.cancel()
                back.close()
        writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        while piece := await reader.read(CHUNK):
            toxic = self.toxic
            if isinstance(toxic, SilentServer):
                continue
            if isinstance(toxic, ConnectionCut) and self.passed + len(piece) > toxic.after_bytes:
                back.write(piece[: max(0, toxic.after_bytes - self.passed)])
                self.passed = max(self.passed, toxic.after_bytes)
                if toxic.reset:
                    _end_with_reset(writer)
                return
            while isinstance(toxic, SlowLink) and piece:
                back.write(piece[: toxic.bytes_each])
                piece = piece[toxic.bytes_each :]
                await asyncio.wait({asyncio.ensure_future(asyncio.Event().wait())}, timeout=0.01)
            back.write(piece)
            self.passed += len(piece)
            await back.drain()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here = 0
        with contextlib.suppress(OSError):
            while piece := await there.read(CHUNK):
                toxic = self.toxic
                if isinstance(toxic, SilentServer):
                    continue
                cut = isinstance(toxic, CutAnswer) and here + len(piece) > toxic.after_bytes
                if isinstance(toxic, CutAnswer) and cut:
                    piece = piece[: max(0, toxic.after_bytes - here)]
                here += len(piece)
                self.answered += len(piece)
                writer.write(piece)
                await writer.drain()
                if isinstance(toxic, CutAnswer) and cut:
                    if toxic.reset:
                        _end_with_reset(writer)
                    writer.close()
                    return


def _end_with_reset(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
