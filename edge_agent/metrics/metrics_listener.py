"""The HTTP listener: GET /metrics on one address, from its own thread and event loop.

A scraper must never harm inference, and any program may reach the port. So few connections are open, and the oldest
without a request is closed for a new one; a request is limited in size and time; and the page is made at most once a
second. If the address is not available, binding is retried, and the daemon continues.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from edge_agent.metrics.metric_catalogue import CONTENT_TYPE

CONNECTIONS_MAX = 16
REQUEST_BYTES_MAX = 8192
REQUEST_SECONDS_MAX = 5.0
"""To receive a request and send its response."""
PAGE_SECONDS = 1.0
BIND_SECONDS = 15.0

log = structlog.get_logger("edge_agent.metrics")

Page = Callable[[], Awaitable[bytes]]


class MetricsListener:
    """The listener and its thread. `page` is called on the thread's own event loop."""

    def __init__(self, host: str, port: int, page: Page) -> None:
        """Prepare; `start` begins."""
        self._host, self._port, self._page = host, port, page
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_ending = False
        # Created anew each time the thread starts.
        self._stopped = asyncio.Event()
        self._waiting: dict[asyncio.Task[None], None] = {}
        """Connections without a request so far, the oldest first."""
        self._answering = 0
        self._page_lock = asyncio.Lock()
        self._cached_page: tuple[float, bytes] = (-PAGE_SECONDS, b"")
        self.port = 0
        """The listening port; 0 = it does not listen."""
        self.problem = ""
        """Why it does not listen."""

    async def run(self) -> None:
        """Listen until cancelled; called on another event loop. Raises the error that ended the thread."""
        listening = self.start()
        try:
            await asyncio.shield(asyncio.wrap_future(listening))
        finally:
            self._request_stop()
            # Runs after all other work, so the thread is idle then.
            await asyncio.wrap_future(self._pool.submit(lambda: None))

    def start(self) -> Future[None]:
        """Begin to listen; the returned future is done when listening ends."""
        self._loop, self._is_ending = None, False
        return self._pool.submit(asyncio.run, self._serve())

    def stop(self) -> None:
        """End every connection and the thread."""
        self._request_stop()
        self._pool.shutdown()

    def _request_stop(self) -> None:
        self._is_ending = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has already ended
                self._loop.call_soon_threadsafe(self._stopped.set)

    async def _serve(self) -> None:
        self._stopped, self._page_lock = asyncio.Event(), asyncio.Lock()
        self._waiting, self._answering = {}, 0
        self._loop = asyncio.get_running_loop()
        if self._is_ending:  # `_request_stop` was called before the loop existed
            self._stopped.set()
        while not self._stopped.is_set():
            try:
                server = await asyncio.start_server(
                    self._handle_connection, self._host, self._port, limit=REQUEST_BYTES_MAX, backlog=CONNECTIONS_MAX
                )
            except OSError as error:
                problem = f"{self._host}:{self._port}: {error.strerror or error}"
                if problem != self.problem:
                    log.warning("metrics_not_served", problem=problem)
                self.problem = problem
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BIND_SECONDS):
                        await self._stopped.wait()
                continue
            async with server:
                self.port, self.problem = server.sockets[0].getsockname()[1], ""
                host = f"[{self._host}]" if ":" in self._host else self._host
                log.info("metrics", url=f"http://{host}:{self.port}/metrics")
                await self._stopped.wait()
                await _yield_to_loop()  # accept the backlog first: asyncio loses a socket that it accepts while closing
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await _yield_to_loop()  # transports close their sockets in the loop's next iteration

    async def _handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._make_room():
                async with asyncio.timeout(REQUEST_SECONDS_MAX):
                    await self._serve_request(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client disconnected, is too slow, or sent too much
        finally:
            writer.transport.abort()

    def _make_room(self) -> bool:
        """Return whether one more connection is accepted; close the oldest idle one if necessary."""
        if len(self._waiting) + self._answering < CONNECTIONS_MAX:
            return True
        if not self._waiting:
            return False
        oldest = next(iter(self._waiting))
        del self._waiting[oldest]
        oldest.cancel()
        return True

    async def _serve_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        self._waiting[task] = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        finally:
            self._waiting.pop(task, None)
        self._answering += 1
        try:
            writer.write(await self._answer(head))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        finally:
            self._answering -= 1

    async def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"GET /metrics\n", "Allow: GET, HEAD\r\n")
        if path != b"/metrics":
            return _response("404 Not Found", b"GET /metrics\n")
        try:
            async with self._page_lock:
                made_at, body = self._cached_page
                if time.monotonic() - made_at >= PAGE_SECONDS:
                    body = await self._page()
                    self._cached_page = time.monotonic(), body
        except TimeoutError:
            return _response("503 Service Unavailable", b"the daemon does not answer in time\n")
        response = _response("200 OK", body, kind=CONTENT_TYPE)
        return response if method == b"GET" else response[: len(response) - len(body)]


async def _yield_to_loop() -> None:
    """Let the loop iterate until the task of an accepted socket runs."""
    for _ in range(5):
        await asyncio.sleep(0)


def _response(status: str, body: bytes, extra: str = "", kind: str = "text/plain; charset=utf-8") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}Connection: close"
    return f"{head}\r\n\r\n".encode() + body
