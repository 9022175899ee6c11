"""The finished answer to one input, and what it becomes: the response, the counts, the captured example.

Each `fill_` function writes into a message of the response, which saves a copy.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from edge_agent.capture.capture_values import CapturedAnswer
from edge_agent.engine.job_dispatch import ComputeInfo, EngineAnswer
from edge_agent.engine.protocol import JobResult, result_of_question
from edge_agent.errors import EdgeAgentError, RequestCancelled
from edge_agent.formats.questions import QuestionSpec, expected_level
from edge_agent.routing.policy import (
    EscalationContext,
    InputObservation,
    RouteDecision,
    RouteReason,
    check_ood_gate,
    decide_graded,
    ood_marks,
)
from edge_agent.server import messages
from edge_agent.server.error_status import UNEXPECTED_ERROR_REASON
from edge_agent.v1 import inference_pb2 as pb
from edge_agent.v1 import task_pb2

if TYPE_CHECKING:
    from edge_agent.formats.calibration_and_gate import Confidence
    from edge_agent.metrics.metric_catalogue import AnswerCounts, TaskCounters
    from edge_agent.store.state_database import InstalledBundle

UNGRADED = RouteDecision("local", RouteReason.UNGRADED)
NO_LOCAL_ANSWER = EngineAnswer(JobResult(job_id=""), 0.0, ComputeInfo(""))
"""The answer of a local model that was not asked."""


class LargeModelAnswer(NamedTuple):
    """What the large model answered: a label, a record as JSON, or a text."""

    value: str
    model: str
    took_ms: float
    complete: bool = True
    """False when the limit of tokens ended it."""
    probabilities: tuple[tuple[str, float], ...] = ()
    """The labels with their probabilities, in the order of the task; empty = it returned none."""


class FinishedAnswer(NamedTuple):
    """One input, what its engine answered, and where the answer comes from."""

    text: str
    answer: EngineAnswer
    bundle: InstalledBundle
    prediction_id: str
    seconds: float = 0.0
    """Since the arrival of the input."""
    decision: RouteDecision = UNGRADED
    large_model: LargeModelAnswer | None = None
    """The large model's answer, if that is returned."""
    audited: bool = False
    """Drawn for the large model to check later."""
    question: QuestionSpec | None = None
    """The answered question; a classify task has one. None for a record, a text or a vector."""

    @property
    def calibration(self) -> Confidence:
        """The calibration of answers to the question."""
        manifest = self.bundle.manifest
        if self.question is None or manifest.task.kind != "decide":
            return manifest.confidence
        return manifest.confidence_of(self.question.name)

    def fill_provenance(self, message: task_pb2.Provenance) -> None:
        """Write where the answer comes from."""
        result, manifest, decision = self.answer.result, self.bundle.manifest, self.decision
        message.reason = decision.reason
        if self.large_model is not None:
            message.model, message.timings.upstream_ms = self.large_model.model, self.large_model.took_ms
        message.prediction_id = self.prediction_id
        bundle, timings = message.bundle, message.timings
        bundle.task, bundle.version, bundle.digest = manifest.task.name, manifest.version, self.bundle.digest
        message.route = messages.ROUTES[decision.route]
        timings.queue_ms, timings.prefill_ms = self.answer.queue_ms, result.prefill_ms
        timings.decode_ms = result.decode_ms
        message.device = self.answer.compute.device
        if decision.p_value is not None:
            message.p_value = decision.p_value
        message.degraded.extend((*decision.degraded, *self.answer.compute.degraded))
        message.input_tokens, message.output_tokens = result.input_tokens, result.output_tokens


def without_local_answer(
    text: str,
    bundle: InstalledBundle,
    decision: RouteDecision,
    large_model: LargeModelAnswer | None,
    question: QuestionSpec | None = None,
) -> FinishedAnswer:
    """Return an answer for which no local model was asked."""
    return FinishedAnswer(
        text, NO_LOCAL_ANSWER, bundle, new_prediction_id(), 0.0, decision, large_model, question=question
    )


def split_by_question(
    finished: FinishedAnswer, computed: Sequence[QuestionSpec], questions: Sequence[QuestionSpec]
) -> list[FinishedAnswer]:
    """Return an answer for each question of a computed input, each a prediction of its own.

    Args:
        finished: the engine's answer to the input.
        computed: the questions that it answered, in the order of its scores; empty if the task has none.
        questions: those among them to return.
    """
    result = finished.answer.result
    if finished.bundle.manifest.task.kind != "decide":
        return [finished._replace(question=computed[0] if computed else None)]
    names = {question.name for question in questions}
    return [
        finished._replace(
            question=question,
            prediction_id=new_prediction_id(),
            answer=finished.answer._replace(result=result_of_question(result, index)),
        )
        for index, question in enumerate(computed)
        if question.name in names
    ]


def decide_on_local_answer(finished: FinishedAnswer, context: EscalationContext) -> RouteDecision:
    """Decide on a local answer that has a confidence."""
    result, scores_vary = finished.answer.result, finished.answer.compute.scores_vary
    observation = InputObservation(result.input_tokens, result.label_mass, scores_vary, result.ood_score)
    confidence = max(result.scores) if result.scores else result.confidence
    return decide_graded(confidence, finished.calibration, context, observation)


def with_gate_result(finished: FinishedAnswer) -> FinishedAnswer:
    """Return an answer without a confidence, such as a vector, with the result of its bundle's gate."""
    manifest, result = finished.bundle.manifest, finished.answer.result
    observation = InputObservation(result.input_tokens, ood_score=result.ood_score)
    p_value, is_outside = check_ood_gate(manifest.confidence, observation)
    return finished._replace(decision=replace(UNGRADED, p_value=p_value, degraded=ood_marks(is_outside)))


def fill_classification(message: pb.Classification, finished: FinishedAnswer, top_k: int) -> float | None:
    """Rank the labels; withhold the best one when the decision is to abstain. `top_k` 0 = all scores.

    Returns the confidence; None = no local model was asked.
    """
    result, labels = finished.answer.result, asked_question(finished).outputs
    finished.fill_provenance(message.provenance)
    if finished.large_model is not None:
        message.label = finished.large_model.value
    if not result.scores:  # no local model was asked
        return None
    ranked = sorted(zip(result.scores, labels, strict=True), key=itemgetter(0), reverse=True)
    if finished.decision.route in ("local", "deferred"):
        message.label = ranked[0][1]
    message.label_mass = result.label_mass
    for score, label in ranked[: top_k or None]:
        pair = message.scores.add()
        pair.label, pair.score = label, score
    _fill_confidence(message.confidence, ranked[0][0], finished)
    return ranked[0][0]


def fill_decision(message: pb.DecisionAnswer, finished: FinishedAnswer) -> float | None:
    """Write the answer to one question; no label when the decision is to abstain.

    Returns the confidence; None = no local model was asked.
    """
    question, result, decision = asked_question(finished), finished.answer.result, finished.decision
    message.question, message.type = question.name, messages.QUESTION_TYPES[question.type]
    finished.fill_provenance(message.provenance)
    if finished.large_model is not None:
        message.label = finished.large_model.value
    if not result.scores:
        return None
    best = max(result.scores)
    if decision.route in ("local", "deferred"):
        message.label = question.outputs[result.scores.index(best)]
    for score, label in zip(result.scores, question.outputs, strict=True):
        pair = message.probabilities.add()
        pair.label, pair.score = label, score
    if question.type == "score":
        message.score = expected_level(result.scores)
    message.label_mass = result.label_mass
    _fill_confidence(message.confidence, best, finished)
    message.calibrated = decision.threshold is not None
    message.confident = message.calibrated and not decision.below_threshold and decision.route == "local"
    return best


def asked_question(finished: FinishedAnswer) -> QuestionSpec:
    """Return the question that an answer of a classify or decide task answers."""
    return finished.question or finished.bundle.manifest.task.questions_asked[0]


def fill_extraction(message: pb.Extraction, finished: FinishedAnswer) -> float | None:
    """Write the record; none when the decision is to abstain. Returns the confidence, if a local model was asked."""
    result, text = finished.answer.result, finished.text
    finished.fill_provenance(message.provenance)
    if finished.large_model is not None:
        message.json = finished.large_model.value
    if finished.answer is NO_LOCAL_ANSWER:
        return None
    if finished.decision.route in ("local", "deferred"):
        message.json = local_record(finished)
        for entity in result.entities:
            span = text[entity.start : entity.end]
            message.entities.add(label=entity.label, text=span, start=entity.start, end=entity.end, score=entity.score)
        for name, confidence in result.fields.items():
            message.fields.add(name=name, confidence=confidence)
    _fill_confidence(message.confidence, result.confidence, finished)
    return result.confidence


def local_record(finished: FinishedAnswer) -> str:
    """Return the local model's record as JSON: what it wrote, or for each entity type its texts, in order."""
    if finished.answer.result.record:
        return finished.answer.result.record
    record: dict[str, list[str]] = {label: [] for label in finished.bundle.manifest.task.record_fields}
    for entity in finished.answer.result.entities:
        record.setdefault(entity.label, []).append(finished.text[entity.start : entity.end])
    return json.dumps(record, ensure_ascii=False)


def fill_embedding(message: pb.Embedding, finished: FinishedAnswer) -> None:
    """Unpack the vector."""
    vector = finished.answer.result.vector
    message.values.extend(struct.unpack(f"<{len(vector) // 4}f", vector))
    finished.fill_provenance(message.provenance)


def fill_finish(message: pb.GenerateFinish, finished: FinishedAnswer) -> None:
    """Write the end of a generation."""
    answer, result = finished.large_model, finished.answer.result
    finish = result.finish or "stop" if answer is None else "stop" if answer.complete else "length"
    message.reason = messages.FINISHES[finish]
    for token in result.tokens:
        alternatives = [pb.TokenLogprob(token=piece, logprob=value) for piece, value in token.alternatives]
        message.tokens.add(token=token.piece, logprob=token.logprob, alternatives=alternatives)
    finished.fill_provenance(message.provenance)


def _fill_confidence(message: task_pb2.Confidence, value: float, finished: FinishedAnswer) -> None:
    decision = finished.decision
    message.value, message.below_threshold = value, decision.below_threshold
    if decision.threshold is not None:
        message.threshold = decision.threshold
        return
    manifest = finished.bundle.manifest
    question = finished.question.name if finished.question and manifest.task.kind == "decide" else ""
    reason = manifest.no_threshold_reasons.get(question, "NOT_CALIBRATED")
    if RouteReason.SCORES_VARY in decision.degraded:
        reason = "SCORES_VARY"
    message.no_threshold_reason = messages.NO_THRESHOLD_REASONS.get(reason.lower(), 0)


def new_prediction_id() -> str:
    """Return a random UUID4 as text: what `str(uuid.uuid4())` does, at a third of its cost."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def captured_label(finished: FinishedAnswer, answer: pb.Classification | pb.DecisionAnswer) -> CapturedAnswer:
    """Build the example of a classification or of one decision.

    It has the local model's best label, even if that was withheld.
    """
    labels, scores = asked_question(finished).outputs, finished.answer.result.scores
    ranked = sorted(zip(labels, scores, strict=bool(scores)), key=itemgetter(1), reverse=True)
    return _captured_answer(finished, answer, ranked[0][0] if ranked else None, ranked, answer.label_mass)


def captured_extraction(finished: FinishedAnswer, answer: pb.Extraction) -> CapturedAnswer:
    """Build the example of an extraction, with the local model's record even if it was withheld."""
    local = local_record(finished) if finished.answer is not NO_LOCAL_ANSWER else None
    return _captured_answer(finished, answer, local)


def captured_generation(finished: FinishedAnswer, text: str) -> CapturedAnswer:
    """Build the example of a text that was written to its end."""
    teacher = finished.large_model
    return CapturedAnswer(
        finished.prediction_id,
        finished.bundle.manifest,
        finished.bundle.digest,
        finished.text,
        text if teacher is None and finished.answer is not NO_LOCAL_ANSWER else None,
        teacher_answer=None if teacher is None else text,
        model=teacher.model if teacher else "",
        route=finished.decision.route,
        reasons=_reasons(finished),
        later=_later_cause(finished),
    )


def _captured_answer(
    finished: FinishedAnswer,
    answer: pb.Classification | pb.DecisionAnswer | pb.Extraction,
    local_answer: str | None,
    scores: list[tuple[str, float]] | None = None,
    label_mass: float | None = None,
) -> CapturedAnswer:
    confidence, is_graded = answer.confidence, answer.HasField("confidence")
    return CapturedAnswer(
        finished.prediction_id,
        finished.bundle.manifest,
        finished.bundle.digest,
        finished.text,
        local_answer,
        scores or (),
        confidence.value if is_graded else None,
        confidence.threshold if confidence.HasField("threshold") else None,
        is_graded and not confidence.below_threshold,
        label_mass,
        finished.large_model.value if finished.large_model else None,
        finished.large_model.model if finished.large_model else "",
        finished.decision.route,
        _reasons(finished, _novelty_marks(finished, label_mass) if is_graded else ()),
        _later_cause(finished),
        finished.decision.p_value,
        finished.decision.held_up or "",
        question=finished.question.name if finished.bundle.manifest.task.kind == "decide" and finished.question else "",
        teacher_scores=finished.large_model.probabilities if finished.large_model else (),
    )


def _novelty_marks(finished: FinishedAnswer, label_mass: float | None) -> tuple[str, ...]:
    novelty = finished.calibration.novelty
    if novelty is None:
        return ()
    return novelty.unusual(1.0 if label_mass is None else label_mass, finished.answer.result.input_tokens)


def _later_cause(finished: FinishedAnswer) -> str:
    return "audit" if finished.audited else "deferred" if finished.decision.later else ""


def _reasons(finished: FinishedAnswer, unusual: tuple[str, ...] = ()) -> tuple[str, ...]:
    decision = finished.decision
    # Also where the large model answered.
    ood = ood_marks(decision.held_up is RouteReason.OUT_OF_DISTRIBUTION)
    return tuple(dict.fromkeys((decision.reason, *decision.degraded, *unusual, *ood)))


def record_answer(
    counts: AnswerCounts, finished: FinishedAnswer, confidence: float | None = None, *, first: bool = True
) -> None:
    """Count an answer, in a few microseconds.

    Args:
        counts: those of all tasks.
        finished: the answer.
        confidence: None if its kind has none, or no local model was asked.
        first: the first answer to its input, whose times and tokens count once.
    """
    task_counts, decision = counts.of(finished.bundle.manifest.task.name), finished.decision
    if first:
        _record_input(task_counts, finished)
    task_counts.answers[decision.route] += 1
    question = _counted_question(finished)
    if question is not None:
        task_counts.question_answers[question, decision.route] += 1
    if confidence is not None:
        task_counts.confidence.observe(confidence)
        if decision.held_up is not None:
            task_counts.held_up[decision.held_up] += 1
            if question is not None:
                task_counts.question_held_up[question, decision.held_up] += 1
    for reason in decision.degraded:
        task_counts.degraded[reason] += 1


def _counted_question(finished: FinishedAnswer) -> str | None:
    """Return the question under which an answer counts: None = its task has none, "" = it came with the call."""
    task, question = finished.bundle.manifest.task, finished.question
    if question is None or task.kind != "decide":
        return None
    return question.name if any(each.name == question.name for each in task.questions) else ""


def _record_input(task_counts: TaskCounters, finished: FinishedAnswer) -> None:
    answer = finished.answer
    result = answer.result
    queue_seconds = 0.001 * answer.queue_ms
    task_counts.queue.observe(queue_seconds)
    task_counts.compute.observe(0.001 * (result.prefill_ms + result.decode_ms))
    task_counts.total.observe(finished.seconds)
    task_counts.tokens[0] += result.input_tokens
    if result.output_tokens:
        task_counts.tokens[1] += result.output_tokens
        task_counts.first_token.observe(queue_seconds + 0.001 * result.prefill_ms)
        task_counts.token.observe(0.001 * result.decode_ms / result.output_tokens)


def record_error(counts: AnswerCounts, task: str, error: BaseException) -> None:
    """Count an input or a call that got no answer."""
    reason = RequestCancelled.reason if isinstance(error, asyncio.CancelledError) else UNEXPECTED_ERROR_REASON
    counts.count_unanswered(task, error.reason if isinstance(error, EdgeAgentError) else reason)


class UnansweredCallCounter:
    """Counts a call if the `with` block ends with an exception, which passes on."""

    __slots__ = ("_counts", "_task")

    def __init__(self, counts: AnswerCounts, task: str) -> None:
        """Count under `task`, which is UNKNOWN_TASK unless it is installed."""
        self._counts, self._task = counts, task

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Count the exception of the block, if there is one."""
        if error is not None:
            record_error(self._counts, self._task, error)
