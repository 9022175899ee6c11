"""The console's connections to the daemon: a client for each role that it uses, and the newest answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, NoReturn, Self, TypeVar

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

CALL_SECONDS_MAX = 5.0
"""Deadline of a call that a page waits for."""
CACHE_SECONDS = 1.0
"""An answer this young is reused, so that many open pages cost the daemon as much as one."""
CHARTS_CACHE_SECONDS = 5.0
_T = TypeVar("_T")


@dataclass(frozen=True)
class DaemonEndpoint:
    """Address and TLS of the daemon for one role."""

    target: str
    tls: Tls | None = None


@dataclass(frozen=True)
class DaemonSnapshot:
    """What the daemon answered last. None: this console lacks the role, or was never answered."""

    status: Status | None = None
    """The status, for an operator."""
    tasks: tuple[Task, ...] | None = None
    """The tasks, for a device; only where there is no status."""
    serving: bool = False
    problems: Mapping[Role, CallFailed] = field(default_factory=dict)
    """Why the newest call of a role failed; the values above are then older."""
    answers: bool = False
    """One of the newest calls was answered."""


@dataclass(frozen=True)
class MonitoringSnapshot:
    """The figures that charts are drawn from."""

    report: FieldReport
    bundles: tuple[Bundle, ...]
    status: Status


class _CachedAnswer(Generic[_T]):
    """An answer that is fetched once for all callers within a time."""

    def __init__(self, fetch: Callable[[], Awaitable[_T]], seconds: float) -> None:
        self._fetch, self._seconds = fetch, seconds
        self._lock = asyncio.Lock()
        self._latest: list[_T] = []
        self._until = 0.0

    async def get(self) -> _T:
        """Return the answer, fetched again when it is too old. Raises what fetching raises."""
        async with self._lock:
            clock = asyncio.get_running_loop().time
            if not self._latest or clock() >= self._until:
                self._latest = [await self._fetch()]
                self._until = clock() + self._seconds
            return self._latest[0]


class DaemonConnections:
    """Clients that are open inside the block. Create and use it inside one running event loop."""

    def __init__(self, endpoints: Mapping[Role, DaemonEndpoint]) -> None:
        """Create a client for each role that has an endpoint. Raises ValueError, OSError as clients do."""
        infer, feedback, admin = endpoints.get("infer"), endpoints.get("feedback"), endpoints.get("admin")
        self.devices = AsyncClient(infer.target, infer.tls) if infer else None
        # A judgement is retried while the daemon restarts, as long as its page waits.
        self.reviews = AsyncReviewClient(feedback.target, feedback.tls, retry=Retry()) if feedback else None
        self.operator = AsyncAdminClient(admin.target, admin.tls) if admin else None
        self._last = DaemonSnapshot()
        self._snapshot = _CachedAnswer(self._fetch_snapshot, CACHE_SECONDS)
        self._monitoring = _CachedAnswer(self._fetch_monitoring, CHARTS_CACHE_SECONDS)

    async def __aenter__(self) -> Self:
        """Return the open clients."""
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
        clients: dict[Role, object] = {"infer": self.devices, "feedback": self.reviews, "admin": self.operator}
        return frozenset(role for role, client in clients.items() if client is not None)

    def require_operator(self) -> AsyncAdminClient:
        """Return the operator's client. Raises CallFailed where `roles` of the console leaves it out."""
        return self.operator or _refuse_role("admin")

    def require_reviews(self) -> AsyncReviewClient:
        """Return the reviewer's client. Raises CallFailed where `roles` of the console leaves it out."""
        return self.reviews or _refuse_role("feedback")

    async def snapshot(self) -> DaemonSnapshot:
        """Return what the daemon answered last; a failed call is reported in `problems`, never raised."""
        return await self._snapshot.get()

    async def monitoring(self) -> MonitoringSnapshot:
        """Return the figures for charts. Raises CallFailed."""
        return await self._monitoring.get()

    async def _fetch_snapshot(self) -> DaemonSnapshot:
        problems: dict[Role, CallFailed] = {}
        status, tasks, serving, answers = self._last.status, self._last.tasks, False, False
        if self.operator is not None:
            try:
                status = await self.operator.status(timeout_seconds=CALL_SECONDS_MAX)
                serving, answers = status.serving, True
            except CallFailed as error:
                problems["admin"] = error
        if self.devices is not None and not answers:
            try:
                serving = await self.devices.serving(timeout_seconds=CALL_SECONDS_MAX)
                tasks = tuple(await self.devices.tasks(timeout_seconds=CALL_SECONDS_MAX))
                answers = True
            except CallFailed as error:
                problems["infer"] = error
        self._last = DaemonSnapshot(status, tasks, serving, problems, answers)
        return self._last

    async def _fetch_monitoring(self) -> MonitoringSnapshot:
        operator = self.require_operator()
        status = await operator.status(timeout_seconds=CALL_SECONDS_MAX)
        report, bundles = await asyncio.gather(operator.field_report(), operator.bundles())
        return MonitoringSnapshot(report, tuple(bundles), status)


def _refuse_role(role: Role) -> NoReturn:
    message, remedy = f"this console does not use the role {role}", "Add it to 'roles' under 'web' in agent.yaml."
    raise CallFailed("UNIMPLEMENTED", "ROLE_UNUSED", message, remedy=remedy, metadata={})
