"""One child process, and the socketpair to it.

The child is spawned and never forked: a fork after gRPC has started is not safe. `subprocess.Popen` starts it by vfork
and exec, which run no fork handlers of gRPC; asyncio's subprocesses under uvloop fork. The end of the child is read
from a pidfd (pidfd_open(2), Linux 5.3). `on_message` is called for every message in order, then `on_exit` exactly once
with the return code (negative = killed by that signal).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import cast

import msgspec
import structlog

from edge_agent.engine.protocol import (
    IGNORED_SIGNALS,
    ChildMessage,
    FrameSplitter,
    FromChild,
    StopRequest,
    decode_from_child,
    frame,
)

# GNU OpenMP spins between parallel regions. With one other busy program, unbounded spinning turned an 11 ms step into
# 1.5 s. A count of 1000 made such steps 2.2 times as long, and steps on a quiet machine 10% longer; 5000 makes them 3.4
# times as long and 3% longer. The library reads the count when it loads. The engine computes with fewer threads while
# another program is busy (decision 0046), and one thread has no barrier to spin at.
CHILD_ENVIRONMENT = {
    "GOMP_SPINCOUNT": "5000",
    "GGML_NO_BACKTRACE": "1",
    # Weights on huge pages, where the kernel gives them to those who ask: every answer reads all weights, and MiniLM
    # computes 4 to 9% faster. malloc reads this before main. See docs/decisions/0015.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "TOKENIZERS_PARALLELISM": "false",
    # Landlock does not reach threads that run already, and numpy's import starts some.
    "OPENBLAS_NUM_THREADS": "1",
    # onnxruntime otherwise starts a telemetry thread, and writes a device id into the home folder, at import.
    "ORT_DISABLE_TELEMETRY": "1",
    # Drivers of devices write no caches to the disk, where a child may not write, and load no code of other programs.
    "MESA_SHADER_CACHE_DISABLE": "true",
    "CUDA_CACHE_DISABLE": "1",
    "VK_LOADER_LAYERS_DISABLE": "~implicit~",
}
# Nothing else of the daemon's environment reaches a child: it may hold credentials.
INHERITED_VARIABLES = (
    "PATH",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "LLAMA_CPP_LIB_PATH",
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

LAST_MESSAGES_SECONDS_MAX = 1.0
_BYTES_IN_KIB = 1024

log = structlog.get_logger("edge_agent.engine")


def loop_time() -> float:
    """Return the time of the running event loop, in seconds: the clock of deadlines."""
    return asyncio.get_running_loop().time()


class _ChildPipe(asyncio.Protocol):
    def __init__(self, on_message: Callable[[FromChild], None]) -> None:
        self._on_message = on_message
        self._splitter = FrameSplitter()
        self._transport: asyncio.WriteTransport | None = None
        self.lost = asyncio.Event()
        self.last_heartbeat = loop_time()

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast and not a check: uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._splitter.feed(data):
                self.last_heartbeat = loop_time()
                self._on_message(decode_from_child(body))
        except (ValueError, msgspec.MsgspecError):
            # A child that sends invalid frames is unusable: closing the pipe ends it.
            self.abort()


def _start_process(child_socket: socket.socket) -> subprocess.Popen[bytes]:
    """Start the process: vfork and exec take about a millisecond."""
    # The signals that the child will ignore are blocked until it does so: a child inherits its parent's signal mask.
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED_SIGNALS)
    try:
        return subprocess.Popen(  # noqa: S603 - our own module
            # -P: no module of the working directory, which may be a bundle's own folder.
            [sys.executable, "-P", "-m", "edge_agent.engine.child", str(child_socket.fileno()), str(os.getpid())],
            pass_fds=(child_socket.fileno(),),
            stdin=subprocess.DEVNULL,
            env={name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ} | CHILD_ENVIRONMENT,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


def _reap(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Reap a process that has ended; return its code, and its peak memory in bytes, 0 = not known."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    # A process that was started by vfork inherits the peak of its parent.
    own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return process.returncode, usage.ru_maxrss * _BYTES_IN_KIB if usage.ru_maxrss > own_peak else 0


class ChildProcess:
    """A running child."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        pipe: _ChildPipe,
        pidfd: int,
        exited: asyncio.Event,
        on_exit: Callable[[int], None],
    ) -> None:
        """Use `spawn`. A reader of the descriptor `pidfd` sets `exited`."""
        self._process, self._pipe = process, pipe
        self._pidfd, self._exited = pidfd, exited
        self.peak_bytes = 0
        """Its peak memory, known after its end; 0 = not known, because it is below that of this process."""
        self._waiter = asyncio.create_task(self._watch_exit(on_exit))

    @classmethod
    async def spawn(
        cls,
        on_message: Callable[[FromChild], None],
        on_exit: Callable[[int], None],
        pidfd_open: Callable[[int], int] = os.pidfd_open,
    ) -> ChildProcess:
        """Start a child.

        Raises:
            OSError: the machine has no descriptor, no process or no memory for it. Nothing is left of the attempt, also
                where the caller is cancelled.
        """
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            parent_socket, child_socket = socket.socketpair()
            undo.callback(parent_socket.close)
            with child_socket:
                parent_socket.setblocking(False)
                _, pipe = await loop.create_unix_connection(lambda: _ChildPipe(on_message), sock=parent_socket)
                undo.callback(pipe.abort)
                # No await from here on: if the caller were cancelled there, nothing would end the process.
                process = _start_process(child_socket)
            undo.callback(process.wait)
            undo.callback(process.kill)  # before it waits
            pidfd, exited = pidfd_open(process.pid), asyncio.Event()
            undo.callback(os.close, pidfd)
            loop.add_reader(pidfd, exited.set)
            undo.pop_all()
        return cls(process, pipe, pidfd, exited, on_exit)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def processor_seconds(self) -> float:
        """Its total processor time, by clock_getcpuclockid(3), which needs no /proc; 0 when it is gone."""
        try:
            return time.clock_gettime(~self.pid << 3 | 2)  # CPUCLOCK_SCHED of a whole process
        except OSError:
            return 0.0

    @property
    def last_heartbeat(self) -> float:
        """When it sent its last message or, if that is later, got work while idle; on the event loop's clock."""
        return self._pipe.last_heartbeat

    def begin_work(self) -> None:
        """Count its silence from now on: an idle child sends nothing."""
        self._pipe.last_heartbeat = loop_time()

    def send(self, message: ChildMessage) -> None:
        """Queue a message. It is lost when the child is gone, which `on_exit` reports."""
        self._pipe.send(frame(message))

    def kill(self) -> None:
        """Send SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def stop(self, seconds: float) -> None:
        """Let it end; kill it after `seconds`, or if the caller is cancelled. It is gone when this returns."""
        self.send(StopRequest())
        try:
            await asyncio.wait([self._waiter], timeout=seconds)
        finally:
            self.kill()
            await self.wait_until_gone()

    async def wait_until_gone(self) -> None:
        """Wait until the process is gone and `on_exit` was called."""
        await asyncio.shield(self._waiter)

    async def _watch_exit(self, on_exit: Callable[[int], None]) -> None:
        try:
            await self._exited.wait()
        finally:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
        exit_code, self.peak_bytes = _reap(self._process)
        # The last messages of a dead child are still in the socket: they are read before the end of file.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_MESSAGES_SECONDS_MAX):
                await self._pipe.lost.wait()
        self._pipe.abort()
        on_exit(exit_code)
