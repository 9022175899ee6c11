"""From an answer to what is kept of it: the words of the examples room, made on the way of every collected answer."""

from __future__ import annotations

from operator import itemgetter

from edge_agent.capture.record_builder import CapturedAnswer
from edge_agent.routing.policy import Reason, marks
from edge_agent.server import answers
from edge_agent.server.answers import NOT_ASKED, Finished
from edge_agent.v1 import inference_pb2 as pb


def classified(finished: Finished, result: pb.ClassifyResult) -> CapturedAnswer:
    """Keep a classification, with the best label of the local model even where that was withheld."""
    labels, scores = finished.bundle.manifest.task.labels, finished.answer.done.scores
    ranked = sorted(zip(labels, scores, strict=bool(scores)), key=itemgetter(1), reverse=True)
    said = result.classification
    return _graded(finished, said, ranked[0][0] if ranked else None, ranked, said.label_mass)


def extracted(finished: Finished, result: pb.ExtractResult) -> CapturedAnswer:
    """Keep a record, the local model's even where that was withheld."""
    asked = finished.answer is not NOT_ASKED
    return _graded(finished, result.extraction, answers.record(finished) if asked else None)


def generated(finished: Finished, text: str) -> CapturedAnswer:
    """Keep a text that was written to its end."""
    said = finished.said
    return CapturedAnswer(
        finished.prediction_id,
        finished.bundle.manifest,
        finished.bundle.digest,
        finished.text,
        text if said is None and finished.answer is not NOT_ASKED else None,
        teacher_answer=None if said is None else text,
        model=said.model if said else "",
        route=finished.decision.route,
        reasons=_reasons(finished),
        later=_later(finished),
    )


def _graded(
    finished: Finished,
    said: pb.Classification | pb.Extraction,
    local_answer: str | None,
    scores: list[tuple[str, float]] | None = None,
    label_mass: float | None = None,
) -> CapturedAnswer:
    confidence, graded = said.confidence, said.HasField("confidence")
    return CapturedAnswer(
        finished.prediction_id,
        finished.bundle.manifest,
        finished.bundle.digest,
        finished.text,
        local_answer,
        scores or (),
        confidence.value if graded else None,
        confidence.threshold if confidence.HasField("threshold") else None,
        graded and not confidence.below_threshold,
        label_mass,
        finished.said.value if finished.said else None,
        finished.said.model if finished.said else "",
        finished.decision.route,
        _reasons(finished, _unusual(finished, label_mass) if graded else ()),
        _later(finished),
        finished.decision.p_value,
        finished.decision.held_up or "",
    )


def _unusual(finished: Finished, label_mass: float | None) -> tuple[str, ...]:
    usual = finished.bundle.manifest.confidence.novelty
    if usual is None:
        return ()
    return usual.unusual(1.0 if label_mass is None else label_mass, finished.answer.done.input_tokens)


def _later(finished: Finished) -> str:
    return "audit" if finished.audited else "deferred" if finished.decision.later else ""


def _reasons(finished: Finished, unusual: tuple[str, ...] = ()) -> tuple[str, ...]:
    decision = finished.decision
    stranger = marks(decision.held_up is Reason.OUT_OF_DISTRIBUTION)  # said also where the large model answered
    return tuple(dict.fromkeys((decision.reason, *decision.degraded, *unusual, *stranger)))
