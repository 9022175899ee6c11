"""The operator's clients, for the admin socket: `AdminClient`, and what the console needs for asyncio programs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import grpc

from edge_agent.client import translation
from edge_agent.client.call_failed import Tls
from edge_agent.client.daemon_connection import PAGE_SIZE, AsyncConnection, Connection, blocking
from edge_agent.client.site_state import Bundle, ImportProgress, SealedExamples, Status, TaskUpdate, UpdatesStatus
from edge_agent.v1 import admin_pb2
from edge_agent.v1.admin_pb2_grpc import AdminServiceStub

if TYPE_CHECKING:
    from edge_agent.client.operator_reports import (
        ErasedValues,
        FieldReport,
        MissedSpan,
        RedactionAuditText,
        RedactionTrial,
        SitePrivacy,
    )
    from edge_agent.client.task_description import Task


class _SharedCalls:
    """The calls of both clients, written once: see daemon_connection.py."""

    unary: Any
    _stub: Any

    async def status(self, *, timeout_seconds: float = 10) -> Status:
        """Show the state of the daemon, its tasks and its engines."""
        request = admin_pb2.GetStatusRequest()
        return translation.value_of(Status, await self.unary(self._stub.GetStatus, request, timeout_seconds))

    async def bundles(self, task: str = "", *, timeout_seconds: float = 10) -> list[Bundle]:
        """List the installed bundles, of one task or of all."""
        bundles: list[Bundle] = []
        request = admin_pb2.ListBundlesRequest(task=task, page_size=PAGE_SIZE)
        while True:
            page = await self.unary(self._stub.ListBundles, request, timeout_seconds)
            bundles += [translation.value_of(Bundle, each) for each in page.bundles]
            if not page.next_page_token:
                return bundles
            request.page_token = page.next_page_token

    async def privacy_report(self, *, timeout_seconds: float = 30) -> SitePrivacy:
        """Show what was captured, replaced, kept, sent and erased, in numbers."""
        from edge_agent.client.operator_reports import SitePrivacy  # noqa: PLC0415

        answer = await self.unary(self._stub.GetPrivacyReport, admin_pb2.GetPrivacyReportRequest(), timeout_seconds)
        return translation.value_of(SitePrivacy, answer)

    async def field_report(self, task: str = "", *, timeout_seconds: float = 30) -> FieldReport:
        """Show how the bundles of a task, or of all, do in production."""
        from edge_agent.client import operator_reports  # noqa: PLC0415 - see LATE_IMPORTS in tests/architecture

        request = admin_pb2.GetFieldReportRequest(task=task)
        answer = await self.unary(self._stub.GetFieldReport, request, timeout_seconds)
        return translation.value_of(operator_reports.FieldReport, answer)

    async def try_redaction(self, text: str, *, timeout_seconds: float = 30) -> RedactionTrial:
        """Redact a text as an example would be redacted; nothing of it is kept."""
        from edge_agent.client.operator_reports import RedactionTrial  # noqa: PLC0415

        request = admin_pb2.TryRedactionRequest(text=text)
        answer = await self.unary(self._stub.TryRedaction, request, timeout_seconds)
        return translation.value_of(RedactionTrial, answer)

    async def redaction_audit(
        self, *, judged: bool = False, after: int = 0, count: int = 0, timeout_seconds: float = 30
    ) -> tuple[RedactionAuditText, ...]:
        """List texts of the audit of redaction after a row: those that wait for a person, or judged ones."""
        from edge_agent.client.operator_reports import RedactionAuditText  # noqa: PLC0415

        request = admin_pb2.ListRedactionAuditRequest(judged=judged, after=after, count=count)
        answer = await self.unary(self._stub.ListRedactionAudit, request, timeout_seconds)
        return tuple(translation.value_of(RedactionAuditText, each) for each in answer.texts)

    async def judge_redaction(
        self,
        prediction_id: str,
        missed: Sequence[MissedSpan] = (),
        wrong: Sequence[int] = (),
        *,
        timeout_seconds: float = 30,
    ) -> None:
        """Store a person's findings in a text of the audit: values that remain, and indexes of spans not personal."""
        spans = [admin_pb2.MissedSpan(start=each.start, end=each.end, label=each.label) for each in missed]
        request = admin_pb2.JudgeRedactionRequest(prediction_id=prediction_id, missed=spans, wrong=wrong)
        await self.unary(self._stub.JudgeRedaction, request, timeout_seconds)


class AdminClient(Connection):
    """Calls of the operator. Every method raises CallFailed."""

    def __init__(self, target: str, tls: Tls | None = None) -> None:
        """Name the daemon: "unix:/run/edge-agent/admin.sock", or "host:port" with a certificate of role admin."""
        super().__init__(target, tls)
        self._stub: Any = AdminServiceStub(self.channel)

    status = blocking(_SharedCalls.status)
    bundles = blocking(_SharedCalls.bundles)
    field_report = blocking(_SharedCalls.field_report)
    privacy_report = blocking(_SharedCalls.privacy_report)
    try_redaction = blocking(_SharedCalls.try_redaction)
    redaction_audit = blocking(_SharedCalls.redaction_audit)
    judge_redaction = blocking(_SharedCalls.judge_redaction)

    def install(self, path: Path | str, *, activate: bool = True, timeout_seconds: float = 600) -> tuple[Bundle, bool]:
        """Copy a bundle into the store; return it, and whether it is new there. The daemon reads `path`."""
        request = admin_pb2.InstallBundleRequest(path=str(Path(path).absolute()), no_activate=not activate)
        answer = self.call(self._stub.InstallBundle, request, timeout_seconds)
        return translation.value_of(Bundle, answer.bundle), bool(answer.newly_installed)

    def activate(self, task: str, bundle: str, *, timeout_seconds: float = 300) -> Bundle:
        """Let a bundle answer: a version, a digest, or 8 and more characters from the start of a digest."""
        request = admin_pb2.ActivateBundleRequest(task=task, bundle=bundle)
        return translation.value_of(Bundle, self.call(self._stub.ActivateBundle, request, timeout_seconds).bundle)

    def rollback(self, task: str, *, timeout_seconds: float = 300) -> Bundle:
        """Let the previous bundle answer again."""
        request = admin_pb2.RollbackTaskRequest(task=task)
        return translation.value_of(Bundle, self.call(self._stub.RollbackTask, request, timeout_seconds).bundle)

    def set_mode(self, task: str, mode: translation.Mode | None, *, timeout_seconds: float = 10) -> Task:
        """Put a task into a mode; None = the mode of the plan, or of agent.yaml. Return the task afterwards.

        Raises ValueError for another word.
        """
        if mode is not None and mode not in get_args(translation.Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(translation.Mode))}, or None; not {mode!r}")
        request = admin_pb2.SetModeRequest(task=task, mode=f"MODE_{mode.upper()}" if mode else None)
        return translation.task(self.call(self._stub.SetMode, request, timeout_seconds).task)

    def remove(self, task: str, bundle: str = "", *, timeout_seconds: float = 60) -> int:
        """Remove one idle bundle, or the whole task when none is named; return the bytes freed."""
        request = admin_pb2.RemoveBundleRequest(task=task, bundle=bundle)
        return int(self.call(self._stub.RemoveBundle, request, timeout_seconds).freed_bytes)

    def seal_examples(self, *, timeout_seconds: float = 300) -> SealedExamples:
        """Seal the waiting examples; return the folders of everything that can be taken away."""
        answer = self.call(self._stub.SealExamples, admin_pb2.SealExamplesRequest(), timeout_seconds)
        return translation.value_of(SealedExamples, answer)

    def read_receipts(self, *, timeout_seconds: float = 60) -> int:
        """Let the daemon read the receipts of the central team; return the number of segments deleted for them."""
        return int(self.call(self._stub.ReadReceipts, admin_pb2.ReadReceiptsRequest(), timeout_seconds).segments)

    def import_update(
        self,
        path: Path | str,
        progress: Callable[[ImportProgress], None] = lambda _: None,
        *,
        timeout_seconds: float = 7200,
    ) -> UpdatesStatus:
        """Take an update from a folder that the daemon reads; return the state of the tasks afterwards.

        `progress` is called with the progress of the copy.
        """
        request = admin_pb2.ImportUpdateRequest(path=str(Path(path).absolute()))
        updates: UpdatesStatus | None = None
        try:
            for message in self.start(self._stub.ImportUpdate, request, timeout_seconds):
                progress(translation.value_of(ImportProgress, message))
                if message.HasField("updates"):
                    updates = translation.value_of(UpdatesStatus, message.updates)
        except grpc.RpcError as error:
            raise self.failed(error, timeout_seconds) from error
        assert updates is not None, "the last message of a call that succeeded has them"
        return updates

    def allow(self, task: str, *, timeout_seconds: float = 7200) -> tuple[TaskUpdate, bool]:
        """Let the plan's bundle answer a task again; return its update afterwards, and whether the task was held."""
        answer = self.call(self._stub.AllowUpdate, admin_pb2.AllowUpdateRequest(task=task), timeout_seconds)
        return translation.value_of(TaskUpdate, answer.task), bool(answer.was_held)

    def erase_values(
        self, values: Sequence[str], *, dry_run: bool = False, timeout_seconds: float = 600
    ) -> ErasedValues:
        """Find what concerns a person by values, and erase it unless `dry_run`."""
        from edge_agent.client.operator_reports import ErasedValues  # noqa: PLC0415

        request = admin_pb2.EraseValuesRequest(values=values, dry_run=dry_run)
        return translation.value_of(ErasedValues, self.call(self._stub.EraseValues, request, timeout_seconds))

    def drain(self, *, timeout_seconds: float = 10) -> None:
        """Let the daemon finish its work and accept no more."""
        self.call(self._stub.Drain, admin_pb2.DrainRequest(), timeout_seconds)


class AsyncAdminClient(_SharedCalls, AsyncConnection):
    """The operator's calls that change no bundle, awaited. Every method raises CallFailed."""

    @functools.cached_property
    def _stub(self) -> Any:
        return AdminServiceStub(self.channel)
