"""What operators change: each change runs in a task of its own, which has its line in the audit log when it ends.

A change that has begun comes to its end whoever waits for it, so its line says what came of the change, and not what
became of the caller. The line is on the disk before the caller has its answer. Only a bundle that is not ready yet when
its caller leaves is given up, as one that does not load (`caller_left`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import structlog
from google.protobuf.message import Message

from edge_agent.errors import EdgeAgentError, InvalidRequest, RequestCancelled
from edge_agent.server import interceptor
from edge_agent.server.admission_control import Admission, Place
from edge_agent.server.audit import Audit
from edge_agent.server.callers import Caller

caller_left: ContextVar[asyncio.Event | None] = ContextVar("caller_left", default=None)
"""In the task of a change: set when its caller has left. A change that can be given up as a whole looks at it."""

CHANGES_MAX = 64
"""In progress at a time, those included whose caller has left; each client has its share, as of calls."""


class Change(NamedTuple):
    """What the audit log says of one."""

    caller: Caller
    call: str
    request: Any


class Changes:
    """Those of one daemon. One event loop owns them; `stop` waits for those that run."""

    def __init__(self, audit: Audit) -> None:
        """Write down there what came of each."""
        self._audit = audit
        self._places = Admission(CHANGES_MAX, what="changes")
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, change: Change, act: Callable[[], Awaitable[Any]]) -> Any:
        """Let a change begin, and return what came of it.

        Raises:
            QueueFull, ShareExceeded: too many are in progress; nothing has begun.
            Exception: what the act raised.
        """
        return await self._begin(change, act, lambda: None).result()

    async def run_told(
        self, change: Change, act: Callable[[Progress], Awaitable[Any]], write: Callable[[Any], Awaitable[Any]]
    ) -> None:
        """Likewise, and write what the act tells of its progress, as long as the caller is there."""
        progress = Progress()
        running = self._begin(change, lambda: act(progress), progress.end)
        with running.attended():
            async with contextlib.aclosing(progress.messages()) as messages:
                async for message in messages:
                    await write(message)
            await running.result()

    async def stop(self) -> None:
        """Return when what runs has come to its end; to be called when no call can come any more."""
        while self._running:
            await asyncio.wait(self._running)

    def _begin(self, change: Change, act: Callable[[], Awaitable[Any]], ended: Callable[[], None]) -> DetachedTask[Any]:
        place = self._places.call(change.caller.account)
        left = asyncio.Event()
        made = self._made(change, act, place, left)
        running = DetachedTask(change.call, made, lambda: self._over(running, ended), left.set)
        self._running.add(running.task)
        return running

    def _over(self, running: DetachedTask[Any], ended: Callable[[], None]) -> None:
        self._running.discard(running.task)
        ended()

    async def _made(self, change: Change, act: Callable[[], Awaitable[Any]], place: Place, left: asyncio.Event) -> Any:
        caller_left.set(left)
        with place:
            outcome = RequestCancelled.reason
            try:
                answer = await act()
                outcome = "OK"
                return answer
            except Exception as error:
                outcome = error.reason if isinstance(error, EdgeAgentError) else interceptor.BUG
                raise
            finally:
                await self._audit.changed(change.caller, change.call, outcome, change.request)


class Progress:
    """Stands for the context of a call whose act writes: the newest message is for the caller, if it reads.

    So a caller that does not read, or has left, holds nothing up.
    """

    def __init__(self) -> None:
        """Begin with no message."""
        self._newest: Any = None
        self._told = asyncio.Event()
        self._ended = False

    async def write(self, message: Any) -> None:
        """Take a message; one that was not read yet is given up."""
        self._newest = message
        self._told.set()

    def end(self) -> None:
        """Let `messages` end when the newest was read."""
        self._ended = True
        self._told.set()

    async def messages(self) -> AsyncGenerator[Any, None]:
        """Yield the newest message whenever there is a new one."""
        while self._newest is not None or not self._ended:
            await self._told.wait()
            self._told.clear()
            message, self._newest = self._newest, None
            if message is not None:
                yield message


# A task that outlives those who wait for it, and whose failure is in the log when nobody is there to see it.
log = structlog.get_logger("edge_agent.server")

Result = TypeVar("Result")


class DetachedTask(Generic[Result]):
    """See the module. Whoever makes one owns it until `ended` was called."""

    def __init__(
        self,
        name: str,
        work: Coroutine[Any, Any, Result],
        ended: Callable[[], None],
        left: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin the work; the log has the name.

        `ended` is called when it is over, before those who wait go on; `left` when nobody waits for it any more.
        """
        self._name = name
        self._attending = 0
        self._ended, self._left = ended, left
        self.task = asyncio.create_task(work)
        self.task.add_done_callback(self._over)

    async def result(self) -> Result:
        """Return what came of it. Raises what it failed with. Who is cancelled here leaves it to the others."""
        with self.attended():
            await asyncio.wait([self.task])
            return self.task.result()

    @contextlib.contextmanager
    def attended(self) -> Iterator[None]:
        """Be there inside the block, where a failure will be seen."""
        self._attending += 1
        try:
            yield
        except asyncio.CancelledError:
            if self._attending == 1 and self.task.done():
                self._tell()  # it failed in the moment in which the last one left
            elif self._attending == 1:
                self._left()
            raise
        finally:
            self._attending -= 1

    def _over(self, _: asyncio.Task[Result]) -> None:
        self._ended()
        if not self._attending:
            self._tell()

    def _tell(self) -> None:
        error = None if self.task.cancelled() else self.task.exception()
        if isinstance(error, EdgeAgentError):
            log.info("unattended_call_failed", call=self._name, reason=error.reason, message=error.message)
        elif error is not None:
            log.error("unattended_call_broke", call=self._name, error=type(error).__name__, exc_info=error)


# Answers remembered by request_id (AIP-155), so that a device's retry gets the same answer without a second run.
#
# A bounded window in memory, in entries and in bytes: the oldest answers are forgotten first. A retry that comes while
# the first call still runs waits for it. A run is never forgotten: runs are calls in progress, which have a limit of
# their own. A failed call is not remembered: its retry is a new try.
REQUEST_ID_CHARS_MAX = 64
ENTRY_BYTES = 1024
"""Counted for each entry beside its answer: id, client, digest, and the objects that hold them."""

Response = TypeVar("Response", bound=Message)
_Call = tuple[str, str, str]


@dataclass(frozen=True)
class WindowLimits:
    """How much is remembered, and for how long."""

    entries_max: int
    """0 = nothing is."""
    seconds_max: float
    bytes_max: int
    """Of all entries; an answer that alone is larger is not remembered."""


class _Run(NamedTuple):
    """A call that runs."""

    content: bytes
    answer: DetachedTask[Any]


@dataclass(frozen=True)
class _Answer:
    """What came of a call, as it travels: only bytes can be counted."""

    content: bytes
    at: float
    kind: type[Message]
    data: bytes

    @property
    def size(self) -> int:
        return ENTRY_BYTES + len(self.data)


class Deduplicator:
    """The window of one daemon. One event loop owns it; `stop` ends what still runs."""

    def __init__(self, limits: WindowLimits) -> None:
        """Begin with nothing."""
        self._limits = limits
        self._runs: dict[_Call, _Run] = {}
        self._answers: OrderedDict[_Call, _Answer] = OrderedDict()
        self._answers_bytes = 0

    @property
    def used_bytes(self) -> int:
        """What answers and runs are counted as."""
        return self._answers_bytes + ENTRY_BYTES * len(self._runs)

    async def run(self, call: _Call, content: bytes, compute: Callable[[], Awaitable[Response]]) -> Response:
        """Return the remembered answer to a call, or compute it; the call is a client, what it calls, and its id.

        A run goes on when its callers leave, for the one that tries again.

        Raises:
            InvalidRequest: the id is too long, or was used for another request.
        """
        request_id = call[-1]
        if not request_id or self._limits.entries_max == 0:
            return await compute()
        if len(request_id) > REQUEST_ID_CHARS_MAX:
            raise InvalidRequest(f"request_id has {len(request_id)} characters; the limit is {REQUEST_ID_CHARS_MAX}")
        digest = hashlib.sha256(content).digest()
        self._forget_old()
        known = self._answers.get(call) or self._runs.get(call)
        if known is not None and known.content != digest:
            raise InvalidRequest(
                "this request_id was used for another request", remedy="Use a new UUID4 for each request."
            )
        if isinstance(known, _Answer):
            return known.kind.FromString(known.data)  # type: ignore[return-value]  # the key names the method
        answer: Response = await (known or self._start(call, digest, compute)).answer.result()
        return answer

    async def stop(self) -> None:
        """End the runs, and return when they have ended; to be called when no call can come any more."""
        tasks = [run.answer.task for run in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, call: _Call, content: bytes, compute: Callable[[], Awaitable[Message]]) -> _Run:
        run = _Run(content, DetachedTask(call[1], _awaited(compute), lambda: self._ended(call)))
        self._runs[call] = run
        self._make_room()
        return run

    def _ended(self, call: _Call) -> None:
        run = self._runs.pop(call)
        task = run.answer.task
        if task.cancelled() or task.exception() is not None:
            return
        message = task.result()
        answer = _Answer(run.content, _now(), type(message), message.SerializeToString())
        if answer.size <= self._limits.bytes_max:
            self._answers[call] = answer
            self._answers_bytes += answer.size
            self._make_room()

    def _make_room(self) -> None:
        limits, runs = self._limits, len(self._runs)
        while self._answers and (self.used_bytes > limits.bytes_max or len(self._answers) + runs > limits.entries_max):
            self._forget_oldest()

    def _forget_old(self) -> None:
        limit = _now() - self._limits.seconds_max
        while self._answers and next(iter(self._answers.values())).at <= limit:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, answer = self._answers.popitem(last=False)
        self._answers_bytes -= answer.size


async def _awaited(compute: Callable[[], Awaitable[Message]]) -> Message:
    return await compute()


def _now() -> float:
    return asyncio.get_running_loop().time()
