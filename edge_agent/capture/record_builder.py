"""Turns an answer into its record: redacted, classified, and written as a line of formats/example_records.py.

Pure apart from the random draw; time is an argument. `json` writes the lines, because the pydantic models take five
times as long; a test reads every kind of line through the models.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edge_agent.capture.capture_values import CapturedAnswer, HumanFeedback
from edge_agent.capture.redact.model_findings import ModelFindings
from edge_agent.capture.redaction_audit import DrawnText
from edge_agent.capture.spool import (
    ESCALATED,
    LOCAL,
    ROUTINE,
    UNRANKED,
    UNSURE,
    UPSTREAM,
    FeedbackRecord,
    PredictionRecord,
)
from edge_agent.config import ExamplesConfig, RedactionConfig
from edge_agent.errors import RedactionHeld
from edge_agent.formats.example_records import SCHEMA, UNGRADED, example_key, task_of_key
from edge_agent.formats.manifest import LABEL_KINDS, Manifest
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.monitoring.answer_observations import AnswerObservation, ModelPair, Source, is_same_answer
from edge_agent.monitoring.monitoring_store import UNUSUAL

if TYPE_CHECKING:
    from edge_agent.capture.person_erasure import ValueDigester
    from edge_agent.capture.redact.redactor import RedactionSession, Redactor
    from edge_agent.capture.teacher_questions import TeacherQuestion

CONSENTS = {"local": LOCAL, "upstream": UPSTREAM}
SCORES_KEPT = 20
_draw = random.SystemRandom().random
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class RecordBuilder:
    """Builds the records of one site."""

    def __init__(
        self,
        config: ExamplesConfig,
        site: str,
        redactor: Redactor,
        model: RedactionConfig | None = None,
        digester: ValueDigester | None = None,
        draw: Callable[[], float] = _draw,
    ) -> None:
        """Redact with these rules, and with the findings of a redaction model if the site has one.

        Without a `digester` no values can be searched for later. `draw` returns a random number from 0 to below 1,
        for the audit of redaction.
        """
        self._draw = draw
        self._config, self._site, self._redactor, self._digester = config, site, redactor, digester
        self._model = model or RedactionConfig()

    def build_prediction(self, answer: CapturedAnswer, seconds: float) -> PredictionRecord:
        """Write a prediction that was answered at `seconds` since 1970."""
        task = answer.manifest.task
        self._require_findings(answer.findings, answer.rules_suffice)
        redaction = self._redactor.start(findings=answer.findings)
        answers = self._redact_answers(redaction, answer)
        redacted_input, drawn_text = self._redact_input(redaction, answer)
        answers = self._redact_answers_again(redaction, answer.manifest, answers)
        record = {
            **self._head("prediction", answer.prediction_id, seconds),
            "prediction_id": answer.prediction_id,
            "task": task.name,
            "kind": task.kind,
            "bundle": {"version": answer.manifest.version, "digest": answer.digest},
            "input": redacted_input,
            **answers,
            "route": answer.route,
            "reason": " ".join(answer.reasons)[:200],
            "redaction": {
                "version": self._redactor.version,
                "rules": self._redactor.rule_names,
                "counts": redaction.counts,
                **({"model": answer.findings.model} if answer.findings else {}),
            },
        }
        if answer.p_value is not None:
            record["p_value"] = answer.p_value
        if answer.question:
            record["question"] = answer.question
        rank = UNRANKED if answer.confidence is None else answer.confidence
        consent = CONSENTS[self._config.collect[task.name]]
        raw, observation = _dumps(record).encode(), observe_answer(answer, seconds)
        return PredictionRecord(
            answer.prediction_id,
            example_key(record),
            rank,
            _eviction_class(answer),
            consent,
            raw,
            observation,
            answer.later,
            dict(redaction.counts),
            self._digests(redaction),
            drawn_text,
        )

    def _redact_input(self, redaction: RedactionSession, answer: CapturedAnswer) -> tuple[str, DrawnText | None]:
        """Redact the input; also return the text for the audit of redaction, if that has drawn it."""
        share, findings = self._model.audit_share, answer.findings
        if findings is None or not share or self._draw() >= share:
            return redaction.text(answer.text), None
        redacted, replaced = redaction.trace(answer.text)
        return redacted, DrawnText(findings.model, answer.text, redacted, tuple(replaced))

    def build_feedback(
        self,
        feedback: HumanFeedback,
        prediction: Mapping[str, Any],
        manifest: Manifest | None,
        at: float,
        findings: ModelFindings | None = None,
    ) -> FeedbackRecord:
        """Write feedback on a stored prediction; `manifest` is that of the task's bundle, if there is one.

        A corrected text or record is redacted like an input; new placeholders get numbers that the prediction does not
        have yet.
        """
        self._require_findings(findings, not self._model.holds(prediction["task"]))
        redaction = self._redactor.start(_texts_of(prediction), findings)
        value = self._redact_answer(redaction, prediction["kind"], manifest, feedback.value)
        reason = redaction.text(feedback.reason)
        record = {
            **self._head("feedback", feedback.feedback_id, at),
            "feedback_id": feedback.feedback_id,
            "prediction_id": feedback.prediction_id,
            "task": prediction["task"],
            "reviewer": feedback.reviewer,
            "verdict": feedback.verdict,
            "value": self._redact_answer_again(redaction, prediction["kind"], prediction["task"], value),
            "reason": reason,
        }
        content = _dumps([feedback.prediction_id, feedback.reviewer, feedback.verdict, feedback.value, feedback.reason])
        raw, digests = _dumps(record).encode(), self._digests(redaction)
        return FeedbackRecord(
            feedback.feedback_id, feedback.prediction_id, feedback.request_id, raw, content.encode(), digests
        )

    def build_teacher_label(
        self,
        question: TeacherQuestion,
        answer: str,
        model: str,
        manifest: Manifest,
        at: float,
        findings: ModelFindings | None,
        scores: Sequence[tuple[str, float]],
    ) -> bytes:
        """Write the large model's label for a stored prediction, redacted like feedback."""
        prediction = json.loads(question.record)
        self._require_findings(findings, not self._model.holds(prediction["task"]))
        redaction = self._redactor.start(_texts_of(prediction), findings)
        if prediction["kind"] == "extract":
            answer = _in_field_order(answer, prediction["output"])
        record: dict[str, Any] = {
            **self._head("opinion", question.prediction_id, at),
            "prediction_id": question.prediction_id,
            "task": task_of_key(question.task),
            "model": model[:200],
            "why": question.why,
            "value": self._redact_answer(redaction, prediction["kind"], manifest, answer),
        }
        if scores:
            record["scores"] = scores
        return _dumps(record).encode()

    def build_tombstone(self, prediction_id: str, at: float) -> bytes:
        """Write the tombstone of an erased prediction."""
        return _dumps({**self._head("tombstone", prediction_id, at), "prediction_id": prediction_id}).encode()

    def _head(self, kind: str, name: str, at: float) -> dict[str, Any]:
        """Return the first keys of every record."""
        return {
            "schema": SCHEMA,
            "type": kind,
            "record_id": f"{kind}:{name}",
            "site": self._site,
            "at": format_timestamp(at),
        }

    def _digests(self, redaction: RedactionSession) -> frozenset[bytes]:
        return self._digester.digests(redaction.replaced) if self._digester else frozenset()

    def _require_findings(self, findings: ModelFindings | None, rules_suffice: bool) -> None:
        """Raise RedactionHeld for texts that the site's redaction model has not read."""
        if self._model.task and findings is None and not rules_suffice:
            raise RedactionHeld("the redaction model has not read the texts of this example")

    def _redact_answers(self, redaction: RedactionSession, answer: CapturedAnswer) -> dict[str, Any]:
        """Write the answer that the caller got, and beside the large model's the local one, which has the scores."""
        grades = {
            "scores": answer.scores[:SCORES_KEPT],
            "confidence": answer.confidence,
            "threshold": answer.threshold,
            "sure": answer.sure,
            "label_mass": answer.label_mass,
        }
        kind, manifest = answer.manifest.task.kind, answer.manifest
        output = self._redact_answer(redaction, kind, manifest, answer.output)
        if answer.teacher_answer is None:
            return {"output": output, **grades}
        teacher_fields = {**UNGRADED, "model": answer.model}
        if answer.teacher_scores:
            teacher_fields["teacher_scores"] = answer.teacher_scores
        if answer.local_answer is None:
            return {"output": output, **teacher_fields}
        local = self._redact_answer(redaction, kind, manifest, answer.local_answer)
        if kind == "extract":
            output = _in_field_order(output, local)
        return {"output": output, **teacher_fields, "local": {"answer": local, **grades}}

    def _redact_answers_again(
        self, redaction: RedactionSession, manifest: Manifest, answers: dict[str, Any]
    ) -> dict[str, Any]:
        """Replace values in answers that only the input identifies: "Anna" after the input "my name is Anna"."""
        kind, task = manifest.task.kind, manifest.task.name
        redacted: dict[str, Any] = {"output": self._redact_answer_again(redaction, kind, task, answers["output"])}
        if "local" in answers:
            local = answers["local"]
            redacted["local"] = {**local, "answer": self._redact_answer_again(redaction, kind, task, local["answer"])}
        return {**answers, **redacted}

    def _redact_answer_again(self, redaction: RedactionSession, kind: str, task: str, answer: str) -> str:
        if not redaction.replaced or kind not in ("extract", "generate") or not answer:
            return answer
        if kind == "generate":
            return str(redaction.again(answer))
        record, exempt = json.loads(answer), self._config.keep_fields.get(task, ())
        return _dumps({name: value if name in exempt else redaction.again(value) for name, value in record.items()})

    def _redact_answer(self, redaction: RedactionSession, kind: str, manifest: Manifest | None, answer: str) -> str:
        """Redact an answer: a text, or a record with the fields that its task marks. A label is unchanged."""
        if kind == "generate":
            return redaction.text(answer)
        if kind != "extract" or not answer:
            return answer
        kept_fields = self._config.keep_fields.get(manifest.task.name, ()) if manifest else ()
        pii_fields = [name for name in manifest.task.pii_fields if name not in kept_fields] if manifest else []
        return _dumps(redaction.value(redaction.fields(json.loads(answer), pii_fields)))


def observe_answer(answer: CapturedAnswer, seconds: float) -> AnswerObservation:
    """Return what production monitoring counts of an answer: of its text only the length."""
    pair = _pair(answer)
    return AnswerObservation(
        answer.prediction_id,
        answer.manifest,
        answer.digest,
        seconds,
        len(answer.text),
        answer.route,
        answer.reasons[0] if answer.reasons else "",
        answer.local_answer,
        answer.confidence,
        answer.sure,
        any(word in answer.reasons for word in UNUSUAL),
        answer.held_up,
        pair,
        answer.output if answer.manifest.task.kind in LABEL_KINDS else "",
        answer.p_value,
        answer.question,
    )


def _pair(answer: CapturedAnswer) -> ModelPair | None:
    """Return how the answers of both models compare; None = one of them was not asked."""
    kind, local, teacher = answer.manifest.task.kind, answer.local_answer, answer.teacher_answer
    if local is None or teacher is None or kind not in {*LABEL_KINDS, "extract"}:
        return None
    source: Source = "shadow" if "MODE_SHADOW" in answer.reasons else "escalated"
    names = (local, teacher) if kind in LABEL_KINDS else ("", "")
    return ModelPair(source, is_same_answer(kind, local, teacher), *names)


def _texts_of(prediction: Mapping[str, Any]) -> str:
    """Return all texts of a stored prediction, which contain its placeholders."""
    local = prediction.get("local")
    return "\n".join([prediction["input"], prediction["output"], *([local["answer"]] if local else [])])


def _in_field_order(answer: str, reference: str) -> str:
    """Write a record with its fields in the order of another record, so that equal records are the same text."""
    record, reference_record = json.loads(answer), json.loads(reference or "{}")
    return _dumps({name: record[name] for name in (*reference_record, *record) if name in record})


def _eviction_class(answer: CapturedAnswer) -> int:
    if answer.later or answer.route in ("upstream", "deferred"):
        return ESCALATED
    return UNSURE if answer.confidence is not None and not answer.sure else ROUTINE
