"""The daemon, as this process sees it: a client for each role that it may use, and what each said last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, Self, TypeVar

from edge_agent.client import (
    AsyncAdminClient,
    AsyncClient,
    AsyncReviewClient,
    Bundle,
    CallFailed,
    FieldReport,
    Retry,
    Status,
    Task,
    Tls,
)
from edge_agent.config import Role

LOOK_SECONDS_MAX = 5.0
"""Longest wait for what a page shows."""
KEPT_SECONDS = 1.0
"""What was asked so long ago is not asked again: many open pages cost the daemon what one does."""
KEPT_SECONDS_CHARTS = 5.0
_T = TypeVar("_T")


@dataclass(frozen=True)
class Way:
    """How the daemon is reached with one role."""

    target: str
    tls: Tls | None = None


@dataclass(frozen=True)
class Seen:
    """What is known at one moment. None = this console does not ask, or was never answered."""

    status: Status | None = None
    """As an operator sees it."""
    tasks: tuple[Task, ...] | None = None
    """As a device sees them; only where there is no status."""
    serving: bool = False
    problems: Mapping[Role, CallFailed] = field(default_factory=dict)
    """Why a role got no answer just now; what stands here of it is from before."""
    answers: bool = False
    """Somebody answered just now."""


@dataclass(frozen=True)
class Field:
    """What charts are drawn from."""

    report: FieldReport
    bundles: tuple[Bundle, ...]
    status: Status


class _Remembered(Generic[_T]):
    """The newest answer to a question, which is asked once for all who want it within a time."""

    def __init__(self, ask: Callable[[], Awaitable[_T]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._answers: list[_T] = []
        self._until = 0.0

    async def get(self) -> _T:
        """Return it. Raises what asking raises."""
        async with self._lock:
            clock = asyncio.get_running_loop().time
            if not self._answers or clock() >= self._until:
                self._answers = [await self._ask()]
                self._until = clock() + self._seconds
            return self._answers[0]


class Daemon:
    """Open inside its block. Create and use it inside one running event loop."""

    def __init__(self, ways: Mapping[Role, Way]) -> None:
        """Name how it is reached; a role that is not named is not used. Raises ValueError, OSError as clients do."""
        # A judgement waits for a daemon that is being restarted as long as its page does.
        self.devices = AsyncClient(ways["infer"].target, ways["infer"].tls) if "infer" in ways else None
        self.reviews = (
            AsyncReviewClient(ways["feedback"].target, ways["feedback"].tls, retry=Retry())
            if "feedback" in ways
            else None
        )
        self.operator = AsyncAdminClient(ways["admin"].target, ways["admin"].tls) if "admin" in ways else None
        self._last = Seen()
        self._look = _Remembered(self._ask, KEPT_SECONDS)
        self._field = _Remembered(self._ask_field, KEPT_SECONDS_CHARTS)

    async def __aenter__(self) -> Self:
        """Open."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every client."""
        for client in (self.devices, self.reviews, self.operator):
            if client is not None:
                await client.close()

    @property
    def roles(self) -> frozenset[Role]:
        """The roles that this console uses."""
        used: dict[Role, object] = {"infer": self.devices, "feedback": self.reviews, "admin": self.operator}
        return frozenset(role for role, client in used.items() if client is not None)

    async def look(self) -> Seen:
        """Return what is known; what does not answer is said, and never raised."""
        return await self._look.get()

    async def field(self) -> Field:
        """Return what the charts are drawn from. Raises CallFailed."""
        return await self._field.get()

    async def _ask(self) -> Seen:
        problems: dict[Role, CallFailed] = {}
        status, tasks, serving = self._last.status, self._last.tasks, False
        answers = False
        if self.operator is not None:
            try:
                status = await self.operator.status(timeout_seconds=LOOK_SECONDS_MAX)
                serving, answers = status.serving, True
            except CallFailed as failed:
                problems["admin"] = failed
        if self.devices is not None and not answers:
            try:
                serving = await self.devices.serving(timeout_seconds=LOOK_SECONDS_MAX)
                tasks = tuple(await self.devices.tasks(timeout_seconds=LOOK_SECONDS_MAX))
                answers = True
            except CallFailed as failed:
                problems["infer"] = failed
        self._last = Seen(status, tasks, serving, problems, answers)
        return self._last

    async def _ask_field(self) -> Field:
        assert self.operator is not None, "the page was refused to those who may not see it"
        status = await self.operator.status(timeout_seconds=LOOK_SECONDS_MAX)
        report, bundles = await asyncio.gather(self.operator.field_report(), self.operator.bundles())
        return Field(report, tuple(bundles), status)
