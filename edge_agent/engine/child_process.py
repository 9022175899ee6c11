"""One child process from its start to its end, the socketpair to it, and whether it is alive; kills one that hangs.

The child is spawned and never forked: a fork after gRPC has started is not safe. `subprocess.Popen` starts it by vfork
and exec, which run no fork handlers of gRPC; asyncio's subprocesses under uvloop fork. The end of the child is read
from a pidfd (pidfd_open(2), Linux 5.3). `on_message` is called for every message in order, then `on_exit` exactly once
with the return code (negative = killed by that signal).

`ChildRun` has what a child is told to load, the memory that it may take, and how it ended.
`ChildWatch` kills a child that has sent nothing for `heartbeat_seconds_max` while work was pending. A child that loads
weights sends nothing for long, so there it is enough that the process uses the processor (`CpuActivity`).
`LivenessProbe` in engine.py tells whether an engine computes. Times are those of the event loop, in seconds.
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
from typing import Any, cast

import msgspec
import structlog

from edge_agent.config import EngineConfig
from edge_agent.engine.memory_cap import MemoryCap
from edge_agent.engine.protocol import (
    IGNORED_SIGNALS,
    ChildMessage,
    FrameSplitter,
    FromChild,
    LoadRequest,
    Ping,
    StopRequest,
    decode_from_child,
    frame,
)
from edge_agent.engine.restart_policy import ALARM_SECONDS, load_exit_error, time_limit_seconds

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
STOP_SECONDS_MAX = 1.0  # a child holds nothing worth waiting longer for
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


class ChildWatch:
    """Watches one child of an engine."""

    def __init__(self, name: str, config: EngineConfig) -> None:
        """Watch a child of the engine of that name."""
        self._name = name
        self._silence_seconds_max, self._load_seconds_max = config.heartbeat_seconds_max, config.load_seconds_max
        self._activity = CpuActivity(config.heartbeat_seconds_max)
        self.killed = False
        """Whether it was killed for its silence."""

    async def check_silence(
        self, child: ChildProcess, exit_future: asyncio.Future[int], awaited: list[asyncio.Future[Any]], *, loads: bool
    ) -> None:
        """Wait for one of `awaited` for a part of the silence limit; then kill a child that was silent for too long.

        A child that `loads` may compute for `load_seconds_max` more. `exit_future` is done when the child is gone.

        If this process did not run for a while, as in a paused container, the silence counts from now on: messages of
        the child are not read yet, and an idle child was not pinged.
        """
        limit, started_at = self._silence_seconds_max, loop_time()
        done, _ = await asyncio.wait(awaited, timeout=limit / 4, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return
        now = loop_time()
        if now - started_at > limit / 2:
            child.begin_work()
        silence, computes = now - child.last_heartbeat, self._activity.is_recent(child.processor_seconds, now)
        if silence > limit + (self._load_seconds_max if loads and computes else 0.0):
            log.error("engine_silent", engine=self._name, pid=child.pid, seconds=round(silence, 1))
            self.killed = True
            child.kill()
            await asyncio.wait([exit_future])
        elif silence > limit / 2:
            child.send(Ping())


class CpuActivity:
    """Whether a silent process uses the processor. Pure."""

    def __init__(self, patience_seconds: float) -> None:
        """Start without a sample."""
        self._patience = patience_seconds
        self._cpu_seconds, self._changed_at = -1.0, 0.0

    def is_recent(self, cpu_seconds: float, now: float) -> bool:
        """Take a sample of its total processor time; tell whether that has grown within the patience."""
        if cpu_seconds != self._cpu_seconds:
            self._cpu_seconds, self._changed_at = cpu_seconds, now
        return now - self._changed_at <= self._patience


class ChildRun:
    """One child; a supervisor has one after the other."""

    def __init__(self, name: str, config: EngineConfig, load_request: LoadRequest) -> None:
        """Prepare a child of the engine of that name; `start` begins."""
        loop = asyncio.get_running_loop()
        self.load_request = load_request
        self.loaded: asyncio.Future[None] = loop.create_future()
        self.exit: asyncio.Future[int] = loop.create_future()
        """Its return code, when it is gone."""
        self.cap = MemoryCap()
        self.process: ChildProcess | None = None
        self.watch = ChildWatch(name, config)
        self._config = config

    async def start(self, receive: Callable[[FromChild], None]) -> None:
        """Start the process. Raises OSError."""
        self.process = await ChildProcess.spawn(receive, self._on_exit)
        self.cap = MemoryCap.of(self.process.pid)

    @property
    def last_heartbeat(self) -> float:
        """When it sent its last message, on the event loop's clock."""
        return self.process.last_heartbeat if self.process else 0.0

    def send(self, message: ChildMessage) -> None:
        """Send it a message, if it is there."""
        if self.process is not None:
            self.process.send(message)

    async def await_step(self, future: asyncio.Future[None], step: str) -> None:
        """Wait for the end of a step. Raises the step's error, or ModelLoadFailed if the child dies or is too slow."""
        assert self.process is not None, "the process must run"
        deadline = loop_time() + time_limit_seconds(self._config, step) + ALARM_SECONDS
        while not (future.done() or self.exit.done() or loop_time() > deadline):
            await self.watch.check_silence(self.process, self.exit, [future, self.exit], loads=True)
        if not future.done():
            exit_code = self.exit.result() if self.exit.done() else None
            raise load_exit_error(step, exit_code, self._config, self.cap)
        future.result()

    async def check_silence(self, *, loads: bool) -> None:
        """Wait for its end for a while; kill it if it has been silent for too long."""
        assert self.process is not None, "the process must run"
        await self.watch.check_silence(self.process, self.exit, [self.exit], loads=loads)

    async def end(self) -> None:
        """Let it end, and wait until it is gone."""
        try:
            if self.process is not None:
                await self.process.stop(STOP_SECONDS_MAX)
        finally:
            self.cap.remove()

    def _on_exit(self, code: int) -> None:
        self.cap.peak_bytes = self.process.peak_bytes if self.process else 0
        if not self.exit.done():
            self.exit.set_result(code)
