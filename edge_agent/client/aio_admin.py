"""The operator's client for asyncio programs: the calls that look, awaited. What changes a site is AdminClient's."""

from __future__ import annotations

from typing import Any

from edge_agent.client import field, wire
from edge_agent.client.aio_connection import AsyncConnection
from edge_agent.client.answers import Bundle, Status
from edge_agent.client.field import FieldReport
from edge_agent.client.retry import Retry
from edge_agent.client.tls import Tls
from edge_agent.v1 import admin_pb2
from edge_agent.v1.admin_pb2_grpc import AdminServiceStub


class AsyncAdminClient(AsyncConnection):
    """What an operator looks at. Every method raises CallFailed."""

    def __init__(self, target: str, tls: Tls | None = None, *, retry: Retry | None = None) -> None:
        """Name the daemon, as to AdminClient."""
        super().__init__(target, tls, retry=retry)
        self._stub: Any = AdminServiceStub(self.channel)

    async def status(self, *, timeout_seconds: float = 10) -> Status:
        """Show the state of the daemon, its tasks and its engines."""
        return wire.status(await self.call(self._stub.GetStatus, admin_pb2.GetStatusRequest(), timeout_seconds))

    async def bundles(self, task: str = "", *, timeout_seconds: float = 10) -> list[Bundle]:
        """List the installed bundles, of one task or of all."""
        bundles: list[Bundle] = []
        request = admin_pb2.ListBundlesRequest(task=task, page_size=wire.PAGE_SIZE)
        while True:
            page = await self.call(self._stub.ListBundles, request, timeout_seconds)
            bundles += map(wire.bundle, page.bundles)
            if not page.next_page_token:
                return bundles
            request.page_token = page.next_page_token

    async def field_report(self, task: str = "", *, timeout_seconds: float = 30) -> FieldReport:
        """Show how the bundles of a task, or of all, do in the field."""
        request = admin_pb2.GetFieldReportRequest(task=task)
        return field.report(await self.call(self._stub.GetFieldReport, request, timeout_seconds))
