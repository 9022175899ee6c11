"""Translates the figures of production monitoring into messages of edge_agent.v1, with intervals of shares. Pure."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from edge_agent import statistics
from edge_agent.formats.calibration_and_gate import Threshold
from edge_agent.formats.example_records import question_of_key, task_of_key
from edge_agent.formats.status_object import REMEDIES
from edge_agent.server.messages import timestamp
from edge_agent.v1 import field_pb2 as pb
from edge_agent.v1 import task_pb2

if TYPE_CHECKING:
    from edge_agent.monitoring.answer_observations import (
        AgreementCount,
        AlarmState,
        BundleSeries,
        ConfidenceCount,
        DailySpend,
        ModelDisagreement,
    )
    from edge_agent.monitoring.risk_and_drift import DriftStream, RiskEvidence, RiskGuarantee
    from edge_agent.store.state_database import InstalledBundle

ALL_LABELS = ""
RECENT_DAYS = 7
_EPOCH = datetime.date(1970, 1, 1)


def alarm_message(alarm: AlarmState, *, demoted: bool) -> pb.FieldAlarm:
    """Describe an alarm, and what to do next."""
    return pb.FieldAlarm(
        task=task_of_key(alarm.task),
        question=question_of_key(alarm.task),
        digest=alarm.digest,
        alarm=alarm.alarm,
        message=alarm.message,
        remedy=REMEDIES[alarm.alarm],
        demoted=demoted,
        since_time=timestamp(alarm.since),
        end_time=timestamp(alarm.ended) if alarm.ended else None,
    )


def money_message(spend: DailySpend) -> pb.FieldMoney:
    """Describe the spending on a task on a day."""
    return pb.FieldMoney(task=spend.task, day=_date(spend.day), questions=spend.questions, cost_micros=spend.micros)


def series_message(
    series: BundleSeries, installed: InstalledBundle | None, *, active: bool, demoted: Callable[[AlarmState], bool]
) -> pb.FieldSeries:
    """Describe a bundle in production; `demoted` tells whether an alarm put its task into shadow."""
    totals = Counter[str]()
    for counts in series.days.values():
        totals.update(counts)
    question = question_of_key(series.task)
    calibration = installed.manifest.confidence_of(question) if installed else None
    return pb.FieldSeries(
        bundle=task_pb2.BundleRef(task=task_of_key(series.task), version=series.version, digest=series.digest),
        question=question,
        active=active,
        days=_days(series),
        totals=totals,
        agreement=_agreement(series.agreement),
        tests=_tests(series.guarantee, series.evidence),
        streams=[_stream(what, stream) for what, stream in series.streams.items()],
        alarms=[alarm_message(alarm, demoted=active and demoted(alarm)) for alarm in series.alarms],
        confidences=_confidences(series.confidences),
        disagreements=map(_disagreement, series.disagreements),
        labels=[
            pb.FieldLabel(label=each.label, answers=each.answers, examples=each.examples) for each in series.labels
        ],
        first_time=timestamp(series.first),
        last_time=timestamp(series.last),
        threshold=calibration.confidence_min if isinstance(calibration, Threshold) else None,
    )


def share_message(hits: int, rows: int) -> pb.Share:
    """Describe a share with its interval."""
    interval = statistics.share(hits, rows)
    return pb.Share(hits=hits, rows=rows, value=interval.value if rows else 0.0, low=interval.low, high=interval.high)


def _days(series: BundleSeries) -> Iterator[pb.FieldDay]:
    pairs, agreed = Counter[int](), Counter[int]()
    for row in series.agreement:
        if row.is_fair:
            pairs[row.day] += row.pairs
            agreed[row.day] += row.agreed
    for day in sorted(series.days.keys() | pairs.keys()):
        yield pb.FieldDay(
            day=_date(day), counts=series.days.get(day, {}), agreement=share_message(agreed[day], pairs[day])
        )


def _date(day: int) -> str:
    return (_EPOCH + datetime.timedelta(days=day)).isoformat()


def _agreement(rows: Sequence[AgreementCount]) -> list[pb.FieldAgreement]:
    since = max((row.day for row in rows), default=0) - RECENT_DAYS
    totals, recent = _sum_by_label(rows), _sum_by_label([row for row in rows if row.day > since])
    return [
        pb.FieldAgreement(
            source=source,
            label=label,
            agreed=share_message(*agreed),
            recent=share_message(*recent.get((source, label), (0, 0))),
        )
        for (source, label), agreed in sorted(totals.items())
    ]


def _sum_by_label(rows: Iterable[AgreementCount]) -> dict[tuple[str, str], tuple[int, int]]:
    """Sum agreements and pairs by source and label, and by source alone."""
    pairs, agreed = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for row in rows:
        for label in {row.label, ALL_LABELS}:
            pairs[row.source, label] += row.pairs
            agreed[row.source, label] += row.agreed
    return {each: (agreed[each], pairs[each]) for each in pairs}


def _tests(guarantee: RiskGuarantee | None, evidence: Mapping[str, RiskEvidence]) -> Iterator[pb.FieldTest]:
    if guarantee is None:
        return
    for judge, judge_evidence in evidence.items():
        yield pb.FieldTest(
            judge=judge,
            wrong=share_message(judge_evidence.wrong, judge_evidence.judged),
            target=judge_evidence.tolerated_share(guarantee),
            delta=guarantee.delta,
            evidence=judge_evidence.peak,
            evidence_max=guarantee.limit,
            refuted=judge_evidence.rejects(guarantee),
            unjudged=judge_evidence.unjudged,
        )


def _stream(what: str, stream: DriftStream) -> pb.FieldStream:
    events = stream.reference.counts.keys() | stream.last.counts.keys()
    ordered = sorted(events, key=lambda event: (-stream.reference.counts.get(event, 0), event))
    return pb.FieldStream(
        what=what,
        calibrated=stream.calibrated,
        reference_rows=stream.reference.rows,
        reference_rows_missing=stream.reference_rows_missing,
        window_rows=stream.window.rows,
        windows=stream.windows,
        events=[
            pb.FieldEvent(event=event, before=stream.reference.share(event), now=stream.last.share(event))
            for event in ordered
        ],
    )


def _confidences(rows: Iterable[ConfidenceCount]) -> Iterator[pb.FieldConfidence]:
    highest_first = sorted(rows, key=lambda row: -row.hundredths)
    total = sum(row.answers for row in highest_first)
    answers = pairs = agreed = reviewed = reviewed_agreed = right = 0
    for row in highest_first:
        answers, pairs, agreed = answers + row.answers, pairs + row.pairs, agreed + row.agreed
        reviewed, right = reviewed + row.reviewed, right + row.right
        reviewed_agreed += row.reviewed_agreed
        yield pb.FieldConfidence(
            confidence=row.hundredths / 100,
            answers=share_message(answers, total),
            agreed=share_message(agreed, pairs),
            reviewed=share_message(right, reviewed),
            reviewed_agreed=reviewed_agreed,
        )


def _disagreement(row: ModelDisagreement) -> pb.FieldDisagreement:
    message = pb.FieldDisagreement(prediction_id=row.prediction_id, source=row.source, ours=row.ours, theirs=row.theirs)
    message.answer_time.CopyFrom(timestamp(row.at))
    if row.confidence >= 0:
        message.confidence = row.confidence
    return message
