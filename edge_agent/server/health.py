"""grpc.health.v1: what the daemon and each task are ready for, told when asked (Check) and at every change (Watch).

The library's servicer is not used: there a watcher that does not read holds up whoever tells a change, and one that
leaves takes the changes of all others with it. Here a change is noted and waits for nobody.

A watch is a call that lasts as long as its caller likes. So each listener has a limit of its own, in which each of its
clients has a share: who holds all that it may leaves some to others, and none of another listener's.
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
"""Of one client of a listener; a third more is there for others."""
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
        """The daemon stops: watches end when they have told it."""

    def of(self, service: str) -> Status | None:
        """Return the status of a task or the daemon; None = there is none of that name."""
        return self._statuses.get(service)

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change; each change has its own."""
        return self._changed

    def tell(self, ready: dict[str, bool], *, serving: bool) -> None:
        """Note which tasks there are and which are ready; without `serving` none is, nor the daemon."""
        if not self.ending:
            good, bad = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING
            states = {OVERALL: True, **ready}
            self._note({name: good if serving and is_ready else bad for name, is_ready in states.items()})

    def end(self) -> None:
        """Say that nothing is served any more, and let the watches end."""
        self.ending = True
        self._note(dict.fromkeys(self._statuses, pb.HealthCheckResponse.NOT_SERVING))

    def _note(self, statuses: dict[str, Status]) -> None:
        self._statuses = statuses
        told, self._changed = self._changed, asyncio.Event()
        told.set()


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the library has no types
    """Tells the callers of one listener."""

    def __init__(self, health: HealthState) -> None:
        """Tell of that."""
        self._health = health
        self._places = AdmissionControl(WATCHES_MAX, what="health watches")

    async def Check(self, request: pb.HealthCheckRequest, context: CallContext) -> pb.HealthCheckResponse:
        """Tell the state now."""
        status = self._health.of(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return pb.HealthCheckResponse(status=status)

    async def Watch(self, request: pb.HealthCheckRequest, context: CallContext) -> None:
        """Tell the state now and at every change, until the caller goes away or the daemon stops."""
        health, last = self._health, None
        with self._places.call(callers.current_caller.get().account):
            while True:
                changed, ending = health.changed, health.ending
                status = health.of(request.service)
                if status is None:
                    status = pb.HealthCheckResponse.SERVICE_UNKNOWN
                if status != last:
                    await context.write(pb.HealthCheckResponse(status=status))
                    last = status
                if ending:
                    raise Draining("the daemon is stopping", retry_seconds=RETRY_SECONDS)
                await changed.wait()
