"""Production monitoring: counts each kept answer and its labels, and raises alarms, in the caller's transaction.

All counts are read from the database each time and never cached: a failed transaction takes its counts with it, and a
kill loses or doubles none.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NamedTuple

from edge_agent.durable.sqlite_database import Database
from edge_agent.formats.example_records import example_key, local_answer, question_of_key, task_of_key
from edge_agent.formats.manifest import LABEL_KINDS
from edge_agent.formats.status_object import Alarm
from edge_agent.monitoring import answer_observations as observing
from edge_agent.monitoring import risk_and_drift
from edge_agent.monitoring.answer_observations import (
    FAIR_SOURCES,
    AgreementCount,
    AlarmState,
    AnswerObservation,
    BundleSeries,
    BundleSummary,
    ConfidenceCount,
    DailySpend,
    LabelCount,
    ModelDisagreement,
    ModelPair,
    ShiftedInputs,
    Source,
)
from edge_agent.monitoring.monitoring_tables import AlarmTables, MonitoringTables, SeriesRow
from edge_agent.monitoring.risk_and_drift import DriftFinding, DriftStream, EventSample, RiskEvidence, RiskGuarantee
from edge_agent.statistics import upper_bound

DAY_SECONDS = 86_400
PEOPLE, LARGE_MODEL = "people", "large-model"
ERRS_MIN, ERRS_DELTA = 100, 0.05
"""The large model's error rate is bounded from ERRS_MIN judged answers on, with probability 1 - ERRS_DELTA."""
ALARM_OF: dict[str, Alarm] = {PEOPLE: "errors", LARGE_MODEL: "opinions"}
_STATES = {PEOPLE: "people-audit", LARGE_MODEL: LARGE_MODEL}
"""Names of the tests in the tables. Earlier agents used "people" for answers that people had chosen to review."""
NEW_INPUTS: Alarm = "new_inputs"
UNUSUAL = ("LABEL_MASS_UNUSUAL", "INPUT_LENGTH_UNUSUAL")


class Charge(NamedTuple):
    """The price of one question to the large model."""

    task: str
    at: float
    """Seconds since 1970."""
    micros: int


class HumanLabel(NamedTuple):
    """A person's feedback on a kept prediction."""

    feedback: Mapping[str, Any]
    first: bool
    """It is the first feedback on the prediction."""
    audit_answer: str | None = None
    """The large model's answer if the random audit asked it; None = not asked, or no answer yet."""
    drawn: bool = False
    """The random audit had drawn the prediction."""


class TeacherLabel(NamedTuple):
    """The large model's answer to a kept input, given after the local one."""

    value: str
    source: Source
    feedback: Mapping[str, Any] | None = None
    """The first human feedback, if it came earlier and the random audit had drawn the answer."""


class AuditOutcome(NamedTuple):
    """The outcome of an answer that the random audit has drawn."""

    accepted: bool
    """The answer was confident, so the bundle's risk guarantee covers it."""
    outcome: str
    """right, wrong, unknown or lost."""


class MonitoringStore:
    """Production monitoring of one site. One thread uses it."""

    def __init__(self, database: Database, new_inputs_level: Mapping[str, float] | None = None) -> None:
        """Open it in the spool's database; `new_inputs_level`: by task, levels of that test other than the default."""
        self._tables = MonitoringTables(database)
        self._alarms = AlarmTables(database)
        self._new_inputs_level = new_inputs_level or {}

    def count_answers(self, answers: Iterable[AnswerObservation]) -> None:
        """Count answers of the current transaction."""
        groups: dict[tuple[str, str], list[AnswerObservation]] = defaultdict(list)
        for answer in answers:
            groups[answer.key, answer.digest].append(answer)
        for (key, digest), group in groups.items():
            row = self._tables.find(key, digest)
            if row is None:
                version, at = group[0].manifest.version, group[0].at
                guarantee = observing.risk_guarantee(group[0].calibration) or RiskGuarantee(0.0, 0.0)
                row = self._tables.begin(SeriesRow(0, key, digest, version, guarantee.target, guarantee.delta, at, at))
            self._count_group(row, group)

    def count_human_label(self, prediction: Mapping[str, Any], label: HumanLabel, at: float) -> None:
        """Count a person's feedback on a stored prediction.

        Only the first feedback on answers that the random audit drew counts as a sample of all answers: other answers
        were chosen by people.
        """
        feedback, first, audit_answer, drawn = label
        row = self._tables.find(example_key(prediction), prediction["bundle"]["digest"])
        if row is None:
            return
        names = [f"said:{feedback['verdict']}", *(_review_counts(prediction, feedback, drawn=drawn) if first else [])]
        if first and prediction["route"] != "upstream":
            names.append("examples")
            right_answers = {"accept": prediction["output"], "corrected": feedback["value"]}
            self._count_example(row, prediction, str(right_answers.get(feedback["verdict"], "")))
        if first and drawn:
            is_shadow = prediction["route"] == "upstream" and "MODE_SHADOW" in prediction["reason"].split()
            shadow_answer = str(prediction["output"]) if is_shadow else ""
            self._count_review(row, prediction, feedback, shadow_answer or audit_answer)
        self._tables.add_days(row.series, Counter((_day(at), name) for name in names))

    def count_audit(self, task: str, digest: str, outcomes: Iterable[AuditOutcome], at: float) -> None:
        """Add people's judgements of the random audit to the risk test, in drawing order.

        The test is valid only in this order: wrong answers are often reported at once, while right ones wait in the
        review queue. It needs no weights when the audit share changes: under the guarantee, an answer is wrong with
        probability at most `target`, whatever its probability of being drawn.
        """
        row = self._tables.find(task, digest)
        if row is not None:
            wrong_of = {"right": False, "wrong": True}
            self._test_risk(row, PEOPLE, [wrong_of.get(each.outcome) for each in outcomes if each.accepted], at)

    def count_teacher_label(self, prediction: Mapping[str, Any], label: TeacherLabel, at: float) -> None:
        """Count a teacher label: the large model's answer that came after the caller got the local one."""
        theirs, source, feedback = label
        row = self._tables.find(example_key(prediction), prediction["bundle"]["digest"])
        ours = observing.local_output(prediction)
        if row is None or ours is None:
            return
        self._tables.add_days(row.series, Counter({(_day(at), "examples"): 1}))
        self._count_example(row, prediction, theirs)
        labels = (ours, theirs) if prediction["kind"] in LABEL_KINDS else ("", "")
        pair = ModelPair(source, observing.is_same_answer(prediction["kind"], ours, theirs), *labels)
        confidence = observing.local_confidence(prediction)
        self._count_pairs(row, [(prediction["prediction_id"], confidence, pair)], at)
        if source in FAIR_SOURCES:
            self._test_risk(row, LARGE_MODEL, [not pair.agreed] if _accepted(prediction) else [], at)
            if confidence is not None:
                at_least = _hundredths(observing.reach(prediction) or 0.0)
                self._tables.add_confidences(row.series, [ConfidenceCount(at_least, 0, 1, pair.agreed)])
            if feedback:
                self._count_review(row, prediction, feedback, theirs)

    def count_charges(self, charges: Iterable[Charge]) -> None:
        """Add the cost of questions to the large model."""
        days: dict[tuple[str, int], list[int]] = defaultdict(list)
        for charge in charges:
            days[charge.task, _day(charge.at)].append(charge.micros)
        self._tables.add_spending(DailySpend(*key, len(micros), sum(micros)) for key, micros in days.items())

    def daily_spend(self, task: str = "") -> tuple[DailySpend, ...]:
        """Return the daily spending on a task, or on all."""
        return self._tables.spending(task)

    def delete_input(self, prediction_id: str) -> None:
        """Delete what refers to an erased input."""
        self._tables.forget(prediction_id)

    def active_alarms(self) -> tuple[AlarmState, ...]:
        """Return the active alarms."""
        return tuple(alarm for _, alarm in self._alarms.alarms(active_only=True))

    def shifted_inputs(self) -> tuple[ShiftedInputs, ...]:
        """Return the inputs that active alarms `new_inputs` concern, of the bundles that answered last."""
        shifted = []
        for series, alarm in self._alarms.alarms(active_only=True):
            if alarm.alarm != NEW_INPUTS or series != self._tables.last_series(alarm.task):
                continue
            state = self._alarms.states(series).get(NEW_INPUTS)
            finding = risk_and_drift.InputShiftTest.of(state).finding() if state else None
            shifted.append(ShiftedInputs(alarm.task, finding.since if finding else alarm.since))
        return tuple(shifted)

    def summaries(self) -> tuple[BundleSummary, ...]:
        """Return the main figures of all bundles."""
        return tuple(
            BundleSummary(
                row.task,
                row.digest,
                _guarantee(row),
                self._evidence(row.series),
                *self._tables.fair_agreement(row.series),
            )
            for row in self._tables.all_series()
        )

    def report(self, task: str = "") -> tuple[BundleSeries, ...]:
        """Return all figures of the bundles of a task, or of all tasks, the newest first."""
        alarms: dict[int, list[AlarmState]] = defaultdict(list)
        for series, alarm in self._alarms.alarms(active_only=False):
            alarms[series].append(alarm)
        return tuple(self._bundle_series(row, alarms[row.series]) for row in self._tables.all_series(task))

    # --- one series --------------------------------------------------------------------------------------------------

    def _count_group(self, row: SeriesRow, group: Sequence[AnswerObservation]) -> None:
        tables, at = self._tables, group[-1].at
        newest = tables.newest_day(row.series)
        tables.add_days(row.series, Counter((_day(answer.at), name) for answer in group for name in answer.names()))
        tables.add_confidences(row.series, _confidences(group))
        tables.add_labels(row.series, _labels(group))
        pairs = [(answer.prediction_id, answer.confidence, answer.pair) for answer in group if answer.pair]
        self._count_pairs(row, pairs, at)
        fair = [
            not answer.pair.agreed
            for answer in group
            if answer.accepted and answer.pair and answer.pair.source in FAIR_SOURCES
        ]
        self._test_risk(row, LARGE_MODEL, fair, at)
        self._watch_drift(row, group)
        self._watch_gate(row, group)
        tables.record_answer_time(row.series, at)
        if any(_day(answer.at) != newest for answer in group):
            tables.prune(row.series)

    def _count_pairs(self, row: SeriesRow, pairs: Sequence[tuple[str, float | None, ModelPair]], at: float) -> None:
        counts: dict[tuple[Source, str], list[int]] = defaultdict(lambda: [0, 0])
        for _, _, pair in pairs:
            counts[pair.source, pair.ours][0] += 1
            counts[pair.source, pair.ours][1] += pair.agreed
        agreement = [AgreementCount(_day(at), *key, *numbers) for key, numbers in counts.items()]
        self._tables.add_agreement(row.series, agreement)
        disagreements = [
            ModelDisagreement(name, at, pair.source, pair.ours, pair.theirs, -1.0 if confidence is None else confidence)
            for name, confidence, pair in pairs
            if not pair.agreed
        ]
        if disagreements:
            self._tables.add_disagreements(row.series, disagreements)

    def _count_example(self, row: SeriesRow, prediction: Mapping[str, Any], truth: str) -> None:
        if prediction["kind"] in LABEL_KINDS and truth:
            self._tables.add_labels(row.series, [LabelCount(truth, 0, 1)])

    def _count_review(
        self, row: SeriesRow, prediction: Mapping[str, Any], feedback: Mapping[str, Any], theirs: str | None
    ) -> None:
        """Count a person's first judgement of an input that both models answered; it serves as the ground truth."""
        ours, confidence = observing.local_output(prediction), observing.local_confidence(prediction)
        wrong = observing.is_local_answer_wrong(prediction, feedback)
        if theirs is None or ours is None or confidence is None or wrong is None:
            return
        agreed = observing.is_same_answer(prediction["kind"], ours, theirs)
        at_least = _hundredths(observing.reach(prediction) or 0.0)
        self._tables.add_reviewed(row.series, at_least, agreed=agreed, right=not wrong)

    def _test_risk(self, row: SeriesRow, judge: str, wrong: Sequence[bool | None], at: float) -> None:
        """Add judged answers to the risk test, one after the other; raise the alarm if it rejects the guarantee."""
        guarantee = _guarantee(row)
        if not wrong or guarantee is None:
            return
        evidence = self._evidence(row.series)[judge]
        if judge == LARGE_MODEL and not evidence.judged:
            evidence = RiskEvidence(allowed=self._large_error_bound(row.task))
        for is_wrong in wrong:
            evidence = evidence.after(is_wrong, guarantee)
        self._alarms.save(row.series, {_STATES[judge]: asdict(evidence)})
        if evidence.rejects(guarantee):
            self._raise_alarm(row, ALARM_OF[judge], at, _risk_message(judge, evidence, guarantee))

    def _large_error_bound(self, task: str) -> float:
        """Return an upper bound on the large model's error rate from people's judgements; 0 = too few of them."""
        judged = self._tables.total(task, "large_checked")
        return upper_bound(self._tables.total(task, "large_wrong"), judged, ERRS_DELTA) if judged >= ERRS_MIN else 0.0

    def _evidence(self, series: int) -> dict[str, RiskEvidence]:
        states = self._alarms.states(series)
        return {judge: RiskEvidence(**states.get(_STATES[judge], {})) for judge in ALARM_OF}

    def _watch_drift(self, row: SeriesRow, group: Sequence[AnswerObservation]) -> None:
        """Add the answers to the drift streams; judge each window that is complete."""
        first, states = group[0], self._alarms.states(row.series)
        possible_events = observing.possible_events(first)
        rows_by_alarm: dict[Alarm, list[tuple[tuple[str, ...], float]]] = defaultdict(list)
        for answer in group:
            for alarm, events in answer.events().items():
                rows_by_alarm[alarm].append((events, answer.at))
        streams = {}
        for alarm, rows in rows_by_alarm.items():
            stream = _stream(states[alarm]) if alarm in states else observing.initial_stream(first.calibration, alarm)
            streams[alarm] = self._advance(row, alarm, possible_events[alarm], stream, rows)
        self._alarms.save(row.series, {alarm: asdict(stream) for alarm, stream in streams.items()})

    def _advance(
        self,
        row: SeriesRow,
        alarm: Alarm,
        event_count: int,
        stream: DriftStream,
        rows: Sequence[tuple[tuple[str, ...], float]],
    ) -> DriftStream:
        """Return a stream with more answers (events, time) added; judge each complete window.

        `event_count`: number of possible events.
        """
        begin, floor = 0, observing.FLOORS[alarm]
        while begin < len(rows):
            chunk = rows[begin : begin + stream.room]
            begin += len(chunk)
            stream = stream.after([events for events, _ in chunk])
            if stream.is_full:
                at, finding = chunk[-1][1], stream.find_drift(floor, event_count)
                if finding is not None:
                    self._raise_alarm(row, alarm, at, _drift_message(alarm, finding, stream))
                elif not stream.differences(floor):
                    self._alarms.end_alarm(row.series, alarm, at)
                stream = stream.next_window()
        return stream

    def _watch_gate(self, row: SeriesRow, group: Sequence[AnswerObservation]) -> None:
        """Add the p-values of a bundle's gate to the test of new inputs, one after the other."""
        gate = group[0].manifest.confidence.gate
        if gate is None or all(answer.p_value is None for answer in group):
            return
        state = self._alarms.states(row.series).get(NEW_INPUTS)
        level = self._new_inputs_level.get(task_of_key(row.task), risk_and_drift.SHIFT_LEVEL)
        test = risk_and_drift.InputShiftTest.of(state) if state else risk_and_drift.InputShiftTest(gate.families, level)
        rejected = False
        for answer in group:
            if answer.p_value is not None:
                rejected |= test.observe(answer.p_value, answer.at)
        at = group[-1].at
        self._alarms.save(row.series, {NEW_INPUTS: test.plain()})
        if test.log_capital <= 0.0:
            self._alarms.end_alarm(row.series, NEW_INPUTS, at)
        elif rejected and (finding := test.finding()):
            self._raise_alarm(row, NEW_INPUTS, at, _shift_message(finding))

    def _raise_alarm(self, row: SeriesRow, alarm: Alarm, at: float, message: str) -> None:
        question = question_of_key(row.task)
        self._alarms.raise_alarm(row.series, alarm, at, f"question '{question}': {message}" if question else message)

    def _bundle_series(self, row: SeriesRow, alarms: Sequence[AlarmState]) -> BundleSeries:
        tables, states = self._tables, self._alarms.states(row.series)
        return BundleSeries(
            task=row.task,
            digest=row.digest,
            version=row.version,
            first=row.first,
            last=row.last,
            days=tables.days(row.series),
            agreement=tables.agreement(row.series),
            confidences=tables.confidences(row.series),
            guarantee=_guarantee(row),
            evidence=self._evidence(row.series),
            streams={alarm: _stream(states[alarm]) for alarm in observing.FLOORS if alarm in states},
            alarms=tuple(alarms),
            disagreements=tables.disagreements(row.series),
            labels=tables.labels(row.series),
        )


def _guarantee(row: SeriesRow) -> RiskGuarantee | None:
    return RiskGuarantee(row.target, row.delta) if row.target else None


def _day(at: float) -> int:
    return int(at // DAY_SECONDS)


def _hundredths(confidence: float) -> int:
    return max(0, min(100, int(100 * confidence + 1e-9))) if math.isfinite(confidence) else 0


def _accepted(prediction: Mapping[str, Any]) -> bool:
    local = local_answer(prediction)
    return (
        local is not None
        and local["confidence"] is not None
        and bool(local["sure"])
        and not any(word in prediction["reason"] for word in UNUSUAL)
    )


def _confidences(group: Sequence[AnswerObservation]) -> list[ConfidenceCount]:
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    for answer in group:
        if answer.confidence is not None:
            numbers = counts[_hundredths(answer.reach or 0.0)]
            numbers[0] += 1
            if answer.pair and answer.pair.source in FAIR_SOURCES:
                numbers[1] += 1
                numbers[2] += answer.pair.agreed
    return [ConfidenceCount(hundredths, *numbers) for hundredths, numbers in counts.items()]


def _labels(group: Sequence[AnswerObservation]) -> list[LabelCount]:
    answers = Counter(answer.label for answer in group if answer.label and not answer.is_of_call)
    examples = Counter(answer.label for answer in group if answer.route == "upstream")
    return [LabelCount(label, number, examples[label]) for label, number in answers.items()]


def _review_counts(prediction: Mapping[str, Any], feedback: Mapping[str, Any], *, drawn: bool) -> list[str]:
    """Return the counts of a first feedback; for audited answers also whether the models were right."""
    if not drawn:
        return ["reviewed"]
    counts = ["reviewed"]
    wrong = observing.is_local_answer_wrong(prediction, feedback) if _accepted(prediction) else None
    if wrong is not None:
        counts += ["checked", "wrong"] if wrong else ["checked"]
    if prediction["route"] == "upstream":
        verdict, kind, output = feedback["verdict"], prediction["kind"], prediction["output"]
        is_confirmed = verdict == "corrected" and observing.is_same_answer(kind, output, feedback["value"])
        counts += ["large_checked"] if verdict == "accept" or is_confirmed else ["large_checked", "large_wrong"]
    return counts


def _stream(plain: Mapping[str, Any]) -> DriftStream:
    samples = {name: EventSample(**plain[name]) for name in ("reference", "window", "last")}
    return DriftStream(**{**plain, **samples})


def _risk_message(judge: str, evidence: RiskEvidence, guarantee: RiskGuarantee) -> str:
    judges = "people found" if judge == PEOPLE else "the large model contradicts"
    missing = f", {evidence.unjudged} more were not judged" if evidence.unjudged else ""
    error_rate = f", and the large model itself errs in {100 * evidence.allowed:.1f}%" if evidence.allowed else ""
    return (
        f"{judges} {evidence.wrong} of {evidence.judged} sure answers{' wrong' if judge == PEOPLE else ''}{missing};"
        f" the bundle promises {100 * guarantee.target:g}% at most{error_rate}"
    )


def _shift_message(finding: risk_and_drift.InputShiftFinding) -> str:
    day = datetime.fromtimestamp(finding.since, UTC).strftime("%Y-%m-%d")
    return (
        f"since {day} about {100 * finding.share:.1f}% of the inputs are unlike those of calibration:"
        f" {finding.within} of {finding.inputs} have a p-value of {finding.limit:.2g} or less; by chance it is"
        f" {100 * finding.bound:.1f}% at most"
    )


_EVENT_TEXTS: dict[Alarm, str] = {
    "labels": "answers with label '{0}'",
    "confidence": "answers with confidence {0}",
    "novelty": "inputs unlike those of calibration",
    "length": "inputs of up to {0} characters",
}


def _drift_message(alarm: Alarm, finding: DriftFinding, stream: DriftStream) -> str:
    event = "at the threshold or above" if finding.event == "sure" else f"up to {finding.event}"
    subject = _EVENT_TEXTS[alarm].format(event if alarm == "confidence" else finding.event)
    reference = "in calibration" if stream.calibrated else f"of the first {stream.reference.rows}"
    return (
        f"{subject} are {100 * finding.window_share:.1f}% of the last {stream.window.rows}; {reference} they were"
        f" {100 * finding.reference_share:.1f}%"
    )
