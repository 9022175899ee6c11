"""What gRPC's C library writes to standard error: it is the only place where a failed TLS handshake is reported.

The library rejects a client without a valid certificate before any code of ours runs, and offers no callback. At the
level INFO it writes one line with the cause, without the address of the client. So the daemon reads these lines: it
counts and logs failed handshakes by cause, and drops the library's other lines, which anyone on the network can cause.
Lines of other origin pass. The library writes into a pipe that never blocks it: lines that find the pipe full are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import sys
from collections.abc import Callable
from typing import TextIO

from edge_agent.refusal_log import handshake_cause

LEVEL_VARIABLE = "GRPC_VERBOSITY"
SILENT, LEVEL = "NONE", "INFO"
"""What `edge_agent/__init__.py` sets, and the lowest level that reports handshakes."""
STANDARD_ERROR = 2
PIPE_BYTES = 1024 * 1024
"""What may wait for the event loop; the kernel may allow less."""
READ_BYTES = 64 * 1024
LINE_BYTES_MAX = 16 * 1024
"""A longer line is passed on in parts."""

_OF_GRPC = re.compile(rb"[IWE]\d{4} \d\d:\d\d:\d\d")
_HANDSHAKE = re.compile(rb"Handshake failed with error \w+: (?P<why>.*)")


def report_handshakes() -> None:
    """Have gRPC report failed handshakes, unless the environment sets a level. It reads that when it is imported."""
    if os.environ.get(LEVEL_VARIABLE) == SILENT:
        os.environ[LEVEL_VARIABLE] = LEVEL


class CoreLog:
    """Standard error of this process, with gRPC's lines taken out. Make it before the logs are configured."""

    def __init__(self) -> None:
        """Give C code a pipe for standard error, and Python the real one."""
        self._real = os.dup(STANDARD_ERROR)
        self._reads, writes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # the user's pipes have taken what the kernel allows
            fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.dup2(writes, STANDARD_ERROR)
        os.close(writes)
        self._python: TextIO = os.fdopen(os.dup(self._real), "w", buffering=1, errors="backslashreplace")
        sys.stderr = self._python
        self._rest = b""
        self.on_failed_handshake: Callable[[str], None] = lambda _: None
        """Gets the cause."""

    async def run(self) -> None:
        """Read until cancelled."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._reads, readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                self.read()
        finally:
            loop.remove_reader(self._reads)

    def read(self) -> None:
        """Read what has been written so far."""
        try:
            while data := os.read(self._reads, READ_BYTES):
                *lines, rest = (self._rest + data).split(b"\n")
                self._rest = rest
                for line in lines:
                    self._take(line + b"\n")
                if len(self._rest) > LINE_BYTES_MAX:
                    self._flush()
        except BlockingIOError:
            return

    def close(self) -> None:
        """Read the rest, and give standard error back to C code."""
        os.dup2(self._real, STANDARD_ERROR)
        self.read()
        self._flush()
        os.close(self._reads)
        os.close(self._real)

    def _flush(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            self._take(rest)

    def _take(self, line: bytes) -> None:
        found = _HANDSHAKE.search(line)
        if found:
            self.on_failed_handshake(handshake_cause(found["why"]))
        elif not _OF_GRPC.match(line):
            os.write(self._real, line)
