"""The operator's client, for the admin socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from edge_agent.client import wire
from edge_agent.client.answers import Bundle, ImportProgress, SealedExamples, Status, Task, UpdatesStatus
from edge_agent.client.connection import Connection
from edge_agent.client.tls import Tls
from edge_agent.client.wire import Mode
from edge_agent.v1 import admin_pb2
from edge_agent.v1.admin_pb2_grpc import AdminServiceStub

if TYPE_CHECKING:
    from edge_agent.client.field import FieldReport


class AdminClient(Connection):
    """Calls of the operator. Every method raises CallFailed."""

    def __init__(self, target: str, tls: Tls | None = None) -> None:
        """Name the daemon: "unix:/run/edge-agent/admin.sock", or "host:port" with a certificate of role admin."""
        super().__init__(target, tls)
        self._stub: Any = AdminServiceStub(self.channel)

    def status(self, *, timeout_seconds: float = 10) -> Status:
        """Show the state of the daemon, its tasks and its engines."""
        return wire.status(self.call(self._stub.GetStatus, admin_pb2.GetStatusRequest(), timeout_seconds))

    def bundles(self, task: str = "", *, timeout_seconds: float = 10) -> list[Bundle]:
        """List the installed bundles, of one task or of all."""
        bundles: list[Bundle] = []
        request = admin_pb2.ListBundlesRequest(task=task, page_size=wire.PAGE_SIZE)
        while True:
            page = self.call(self._stub.ListBundles, request, timeout_seconds)
            bundles += map(wire.bundle, page.bundles)
            if not page.next_page_token:
                return bundles
            request.page_token = page.next_page_token

    def install(self, path: Path | str, *, activate: bool = True, timeout_seconds: float = 600) -> tuple[Bundle, bool]:
        """Copy a bundle into the store; return it, and whether it is new there. The daemon reads `path`, not we."""
        request = admin_pb2.InstallBundleRequest(path=str(Path(path).absolute()), no_activate=not activate)
        answer = self.call(self._stub.InstallBundle, request, timeout_seconds)
        return wire.bundle(answer.bundle), answer.newly_installed

    def activate(self, task: str, bundle: str, *, timeout_seconds: float = 300) -> Bundle:
        """Let a bundle answer: a version, a digest, or 8 and more characters from the start of a digest."""
        request = admin_pb2.ActivateBundleRequest(task=task, bundle=bundle)
        return wire.bundle(self.call(self._stub.ActivateBundle, request, timeout_seconds).bundle)

    def rollback(self, task: str, *, timeout_seconds: float = 300) -> Bundle:
        """Let the bundle before answer again."""
        request = admin_pb2.RollbackTaskRequest(task=task)
        return wire.bundle(self.call(self._stub.RollbackTask, request, timeout_seconds).bundle)

    def set_mode(self, task: str, mode: Mode | None, *, timeout_seconds: float = 10) -> Task:
        """Put a task into a mode; None = what the plan says, or agent.yaml. Return the task as it is then."""
        request = admin_pb2.SetModeRequest(task=task, mode=wire.mode(mode))
        return wire.task(self.call(self._stub.SetMode, request, timeout_seconds).task)

    def field_report(self, task: str = "", *, timeout_seconds: float = 30) -> FieldReport:
        """Show how the bundles of a task, or of all, do in the field."""
        from edge_agent.client import field  # noqa: PLC0415 - see LATE_IMPORTS in tests/architecture

        request = admin_pb2.GetFieldReportRequest(task=task)
        return field.report(self.call(self._stub.GetFieldReport, request, timeout_seconds))

    def remove(self, task: str, bundle: str = "", *, timeout_seconds: float = 60) -> int:
        """Remove one idle bundle, or the whole task when none is named; return the bytes given back."""
        request = admin_pb2.RemoveBundleRequest(task=task, bundle=bundle)
        return int(self.call(self._stub.RemoveBundle, request, timeout_seconds).freed_bytes)

    def seal_examples(self, *, timeout_seconds: float = 300) -> SealedExamples:
        """Seal the examples that wait; return where everything lies that can be taken away."""
        answer = self.call(self._stub.SealExamples, admin_pb2.SealExamplesRequest(), timeout_seconds)
        return SealedExamples(answer.segments, answer.site, answer.outbox_path, answer.receipts_path)

    def read_receipts(self, *, timeout_seconds: float = 60) -> int:
        """Let the daemon read the centre's receipts; return how many segments it deleted for them."""
        return int(self.call(self._stub.ReadReceipts, admin_pb2.ReadReceiptsRequest(), timeout_seconds).segments)

    def import_update(
        self,
        path: Path | str,
        told: Callable[[ImportProgress], None] = lambda _: None,
        *,
        timeout_seconds: float = 7200,
    ) -> UpdatesStatus:
        """Take an update from a folder that the daemon reads; return where the tasks stand afterwards."""
        request = admin_pb2.ImportUpdateRequest(path=str(Path(path).absolute()))
        updates: UpdatesStatus | None = None
        try:
            for message in self.start(self._stub.ImportUpdate, request, timeout_seconds):
                told(ImportProgress(message.copying, message.copied_bytes, message.total_bytes))
                updates = wire.updates(message)
        except grpc.RpcError as error:
            raise self.failed(error, timeout_seconds) from error
        assert updates is not None, "the last message of a call that succeeded has them"
        return updates

    def drain(self, *, timeout_seconds: float = 10) -> None:
        """Let the daemon finish its work and take no more."""
        self.call(self._stub.Drain, admin_pb2.DrainRequest(), timeout_seconds)
