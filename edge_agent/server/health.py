"""grpc.health.v1: whether the daemon and each task are ready, on request (Check) and at every change (Watch).

The library's servicer is not used: there a watcher that does not read delays whoever reports a change, and one that
leaves loses the changes of all others. Here a change is recorded without waiting.

A watch lasts as long as its caller likes. So each listener has its own limit, of which each client has a share: a
client that uses its whole share leaves some to others, and takes nothing from another listener.
"""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from edge_agent.errors import Draining
from edge_agent.server import callers
from edge_agent.server.admission_control import AdmissionControl
from edge_agent.server.interceptor import CallContext

WATCHES_MAX = 32
"""Of one client of a listener; a third more is reserved for others."""
RETRY_SECONDS = 10.0
OVERALL = ""
"""The name of the daemon among those of tasks."""
Status = int
"""One of HealthCheckResponse.ServingStatus."""


class HealthState:
    """What is ready, for all listeners. One event loop owns it."""

    def __init__(self) -> None:
        """Begin with a daemon that serves no task yet."""
        self._statuses: dict[str, Status] = {OVERALL: pb.HealthCheckResponse.SERVING}
        self._changed = asyncio.Event()
        self.ending = False
        """The daemon stops: watches end after they have reported it."""

    def status_of(self, service: str) -> Status | None:
        """Return the status of a task or the daemon; None = the name is unknown."""
        return self._statuses.get(service)

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change; each change has its own."""
        return self._changed

    def update(self, ready: dict[str, bool], *, serving: bool) -> None:
        """Set which tasks exist and which are ready; without `serving` neither a task nor the daemon is."""
        if not self.ending:
            good, bad = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING
            states = {OVERALL: True, **ready}
            self._note({name: good if serving and is_ready else bad for name, is_ready in states.items()})

    def end(self) -> None:
        """Set everything to NOT_SERVING, and let the watches end."""
        self.ending = True
        self._note(dict.fromkeys(self._statuses, pb.HealthCheckResponse.NOT_SERVING))

    def _note(self, statuses: dict[str, Status]) -> None:
        self._statuses = statuses
        told, self._changed = self._changed, asyncio.Event()
        told.set()


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the library has no types
    """Reports to the callers of one listener."""

    def __init__(self, health: HealthState) -> None:
        """Report that state."""
        self._health = health
        self._places = AdmissionControl(WATCHES_MAX, what="health watches")

    async def Check(self, request: pb.HealthCheckRequest, context: CallContext) -> pb.HealthCheckResponse:
        """Return the state now."""
        status = self._health.status_of(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return pb.HealthCheckResponse(status=status)

    async def Watch(self, request: pb.HealthCheckRequest, context: CallContext) -> None:
        """Write the state now and at every change, until the caller leaves or the daemon stops."""
        health, last = self._health, None
        with self._places.call(callers.current_caller.get().account):
            while True:
                changed, ending = health.changed, health.ending
                status = health.status_of(request.service)
                if status is None:
                    status = pb.HealthCheckResponse.SERVICE_UNKNOWN
                if status != last:
                    await context.write(pb.HealthCheckResponse(status=status))
                    last = status
                if ending:
                    raise Draining("the daemon is stopping", retry_seconds=RETRY_SECONDS)
                await changed.wait()
