"""From an answer to what is kept of it: the words of the examples room, made on the way of every collected answer."""

from __future__ import annotations

from operator import itemgetter

from edge_agent.examples.records import Answered
from edge_agent.service.answers import Finished
from edge_agent.v1 import inference_pb2 as pb
from edge_agent.v1 import task_pb2

_ROUTES = {
    task_pb2.ROUTE_LOCAL: "local",
    task_pb2.ROUTE_UPSTREAM: "upstream",
    task_pb2.ROUTE_ABSTAINED: "abstained",
    task_pb2.ROUTE_DEFERRED: "deferred",
}


def classified(finished: Finished, result: pb.ClassifyResult) -> Answered:
    """Keep a classification, with its best label even where that was withheld."""
    labels = finished.bundle.manifest.task.labels
    ranked = sorted(zip(labels, finished.answer.done.scores, strict=True), key=itemgetter(1), reverse=True)
    said = result.classification
    return _graded(finished, said, ranked[0][0], ranked, said.label_mass)


def extracted(finished: Finished, result: pb.ExtractResult) -> Answered:
    """Keep a record."""
    return _graded(finished, result.extraction, result.extraction.json)


def generated(finished: Finished, text: str) -> Answered:
    """Keep a text that was written to its end."""
    return Answered(finished.prediction_id, finished.bundle.manifest, finished.bundle.digest, finished.text, text)


def _graded(
    finished: Finished,
    said: pb.Classification | pb.Extraction,
    output: str,
    scores: list[tuple[str, float]] | None = None,
    label_mass: float | None = None,
) -> Answered:
    confidence, provenance = said.confidence, said.provenance
    return Answered(
        finished.prediction_id,
        finished.bundle.manifest,
        finished.bundle.digest,
        finished.text,
        output,
        scores or (),
        confidence.value,
        confidence.threshold if confidence.HasField("threshold") else None,
        not confidence.below_threshold,
        label_mass,
        _ROUTES[provenance.route],
        tuple(provenance.degraded),
    )
