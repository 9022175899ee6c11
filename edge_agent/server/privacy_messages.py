"""The rights of the person, as messages: what was found and erased, and figures about personal data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from edge_agent.capture.person_erasure import PersonErasure
    from edge_agent.capture.personal_values import Erasure
    from edge_agent.capture.spool_worker import PrivacyReport


def erasure_response(done: PersonErasure) -> pb.EraseValuesResponse:
    """Describe what was found and erased."""
    return pb.EraseValuesResponse(
        found=done.found,
        found_by_digest=done.by_digest,
        found_by_text=done.by_text,
        kept_here=done.here,
        sent=done.sent,
        tasks=done.tasks,
        erased=done.erased,
        told=done.told,
        erasure=done.number,
    )


def privacy_report(report: PrivacyReport) -> pb.GetPrivacyReportResponse:
    """Describe the figures of a site."""
    return pb.GetPrivacyReportResponse(
        counts=[pb.PrivacyCount(task=c.task, what=c.what, name=c.name, number=c.number) for c in report.counts],
        held=[
            pb.HeldExamples(task=each.task, kept=each.kept, waiting=each.waiting, sealed=each.sealed)
            for each in report.held
        ],
        erasures=map(_erasure, report.erasures),
        digests=report.digests,
        digests_max=report.digests_max,
        digest_days=report.digest_days,
        retention_days=report.retention_days,
    )


def _erasure(each: Erasure) -> pb.Erasure:
    message = pb.Erasure(number=each.number, erased=each.erased, told=each.told, confirmed=each.confirmed)
    message.erase_time.FromMilliseconds(int(each.at * 1000))
    return message
