"""From an answer to what is kept of it: the words of the examples room, made on the way of every collected answer."""

from __future__ import annotations

from operator import itemgetter

from edge_agent.examples.records import Answered
from edge_agent.routing.policy import Reason, marks
from edge_agent.service import answers
from edge_agent.service.answers import NOT_ASKED, Finished
from edge_agent.v1 import inference_pb2 as pb


def classified(finished: Finished, result: pb.ClassifyResult) -> Answered:
    """Keep a classification, with its best label even where that was withheld."""
    labels, scores = finished.bundle.manifest.task.labels, finished.answer.done.scores
    ranked = sorted(zip(labels, scores, strict=bool(scores)), key=itemgetter(1), reverse=True)
    said = result.classification
    return _graded(finished, said, said.label or (ranked[0][0] if ranked else ""), ranked, said.label_mass)


def extracted(finished: Finished, result: pb.ExtractResult) -> Answered:
    """Keep a record."""
    return _graded(finished, result.extraction, result.extraction.json)


def generated(finished: Finished, text: str) -> Answered:
    """Keep a text that was written to its end."""
    route, reasons = finished.decision.route, _reasons(finished)
    return Answered(
        finished.prediction_id,
        finished.bundle.manifest,
        finished.bundle.digest,
        finished.text,
        text,
        route=route,
        reasons=reasons,
        model=finished.said.model if finished.said else "",
        later=_later(finished),
    )


def _graded(
    finished: Finished,
    said: pb.Classification | pb.Extraction,
    output: str,
    scores: list[tuple[str, float]] | None = None,
    label_mass: float | None = None,
) -> Answered:
    confidence, graded = said.confidence, said.HasField("confidence")
    return Answered(
        finished.prediction_id,
        finished.bundle.manifest,
        finished.bundle.digest,
        finished.text,
        output,
        scores or (),
        confidence.value if graded else None,
        confidence.threshold if confidence.HasField("threshold") else None,
        graded and not confidence.below_threshold,
        label_mass,
        finished.decision.route,
        _reasons(finished, _unusual(finished, label_mass) if graded else ()),
        finished.said.model if finished.said else "",
        answers.record(finished) if finished.said and not scores and finished.answer is not NOT_ASKED else None,
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
