"""One child process and the socketpair to it. Spawned, never forked: fork after gRPC has started is not safe.

`subprocess.Popen` is used and not asyncio's subprocesses: it starts the child by vfork and exec, which runs no fork
handlers of gRPC, while uvloop forks. The end of the child is read from a pidfd (pidfd_open(2), Linux 5.3).

Says nothing of what the messages mean; `engine.py` does. `on_message` is called for every message in order, then
`on_exit` exactly once with the return code (negative = killed by that signal).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import cast

import msgspec

from edge_agent.engine.protocol import FrameSplitter, FromChild, Message, decode_from_child, frame

# GNU OpenMP spins between parallel regions. Beside one busy neighbour unbounded spinning turned an 11 ms step into
# 1.5 s. A count of 1000 made steps 2.2 times as long there and cost 10 % on a quiet machine; 5000 makes them 3.4 times
# as long and costs 3 %. The library reads it when it loads.
CHILD_ENVIRONMENT = {
    "GOMP_SPINCOUNT": "5000",
    "GGML_NO_BACKTRACE": "1",
    # Weights on huge pages, where the kernel gives them to those who ask: every answer reads all weights, and MiniLM
    # computes 4 to 9 % faster. malloc reads this before main. See docs/decisions/0015.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "TOKENIZERS_PARALLELISM": "false",
    # Landlock does not reach threads that run already, and numpy's import starts some.
    "OPENBLAS_NUM_THREADS": "1",
    # onnxruntime otherwise starts a telemetry thread, and writes a device id into the home folder, at import.
    "ORT_DISABLE_TELEMETRY": "1",
    # Of drivers of devices: no caches on the disk, where nothing may be written, and no code that others put between.
    "MESA_SHADER_CACHE_DISABLE": "true",
    "CUDA_CACHE_DISABLE": "1",
    "VK_LOADER_LAYERS_DISABLE": "~implicit~",
}
# Nothing else of the daemon's environment reaches a child: it may hold credentials.
KEPT = (
    "PATH",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "OPENBLAS_CORETYPE",
    # Which driver and which device.
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "GGML_VK_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
)

LAST_WORDS_SECONDS_MAX = 1.0


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in KEPT if name in os.environ} | CHILD_ENVIRONMENT


class _Pipe(asyncio.Protocol):
    def __init__(self, on_message: Callable[[FromChild], None]) -> None:
        self._on_message = on_message
        self._splitter = FrameSplitter()
        self.transport: asyncio.WriteTransport | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast and not a check: uvloop's transports do not inherit from asyncio's.
        self.transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._splitter.feed(data):
                self._on_message(decode_from_child(body))
        except (ValueError, msgspec.MsgspecError):
            # A child that speaks nonsense has lost its mind: closing the pipe ends it.
            assert self.transport is not None
            self.transport.abort()


class ChildProcess:
    """A running child."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: _Pipe, on_exit: Callable[[int], None]) -> None:
        """Use `spawn`."""
        self._process = process
        self._pipe = pipe
        self._waiter = asyncio.create_task(self._wait(on_exit))

    @classmethod
    async def spawn(cls, on_message: Callable[[FromChild], None], on_exit: Callable[[int], None]) -> ChildProcess:
        """Start a child."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - vfork and exec take about a millisecond; our own module
                [sys.executable, "-m", "edge_agent.engine.child", str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        _, pipe = await loop.create_unix_connection(lambda: _Pipe(on_message), sock=ours)
        return cls(process, pipe, on_exit)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def processor_seconds(self) -> float:
        """What it has computed in all its life: clock_getcpuclockid(3), which needs no /proc; 0 when it is gone."""
        try:
            return time.clock_gettime(~self.pid << 3 | 2)  # CPUCLOCK_SCHED of a whole process
        except OSError:
            return 0.0

    def send(self, message: Message) -> None:
        """Queue a message; lost when the child is gone, which `on_exit` tells."""
        if self._pipe.transport is not None and not self._pipe.transport.is_closing():
            self._pipe.transport.write(frame(message))

    def kill(self) -> None:
        """Send SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> None:
        """Wait until the process is gone and `on_exit` was called."""
        await asyncio.shield(self._waiter)

    async def _wait(self, on_exit: Callable[[int], None]) -> None:
        code = await self._exit_code()
        # What the child said before it died stands in the socket: it is read before the end of file.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._pipe.lost.wait(), LAST_WORDS_SECONDS_MAX)
        if self._pipe.transport is not None:
            self._pipe.transport.abort()
        on_exit(code)

    async def _exit_code(self) -> int:
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        descriptor = os.pidfd_open(self._process.pid)
        try:
            loop.add_reader(descriptor, gone.set)
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return self._process.wait()
