"""From what an engine computed to the answer a device gets: pure, one function for each task kind.

Each fills a message where it lies in the response: one made outside would be copied into it, in every call.
"""

from __future__ import annotations

import json
import struct
from operator import itemgetter
from typing import NamedTuple

from edge_agent.engine.jobs import Answer
from edge_agent.routing.policy import Decision, Seen, Wish, decide
from edge_agent.service import messages
from edge_agent.store.state import InstalledBundle
from edge_agent.v1 import inference_pb2 as pb
from edge_agent.v1 import task_pb2

_UNDECIDED = Decision("local", None, below_threshold=False)
Given = tuple[Decision, float | None]
"""What was decided of an answer, and its confidence; None where its kind has none."""


class Finished(NamedTuple):
    """One input, what its engine answered, and what belongs to the answer."""

    text: str
    answer: Answer
    bundle: InstalledBundle
    prediction_id: str
    seconds: float = 0.0
    """From the arrival of the input."""

    def explain(self, message: task_pb2.Provenance, decision: Decision = _UNDECIDED) -> None:
        """Write where the answer comes from."""
        done, manifest = self.answer.done, self.bundle.manifest
        message.prediction_id = self.prediction_id
        bundle, timings = message.bundle, message.timings
        bundle.task, bundle.version, bundle.digest = manifest.task.name, manifest.version, self.bundle.digest
        message.route = messages.ROUTES[decision.route]
        timings.queue_ms, timings.prefill_ms = self.answer.queue_ms, done.prefill_ms
        timings.decode_ms = done.decode_ms
        message.device = self.answer.computed.device
        message.degraded.extend((*decision.degraded, *self.answer.computed.degraded))
        message.input_tokens, message.output_tokens = done.input_tokens, done.output_tokens


def classify(message: pb.Classification, finished: Finished, wish: Wish, top_k: int) -> Given:
    """Rank the labels; withhold the best one when the decision is to abstain. `top_k` 0 = all scores."""
    done, manifest = finished.answer.done, finished.bundle.manifest
    ranked = sorted(zip(done.scores, manifest.task.labels, strict=True), key=itemgetter(0), reverse=True)
    best_score, best_label = ranked[0]
    decision = decide(best_score, manifest.confidence, wish, Seen(done.input_tokens, done.label_mass))
    message.label = "" if decision.route == "abstained" else best_label
    message.label_mass = done.label_mass
    for score, label in ranked[: top_k or None]:
        pair = message.scores.add()
        pair.label, pair.score = label, score
    _grade(message.confidence, best_score, decision)
    finished.explain(message.provenance, decision)
    return decision, best_score


def extract(message: pb.Extraction, finished: Finished, wish: Wish) -> Given:
    """Write the record; none when the decision is to abstain."""
    done, text = finished.answer.done, finished.text
    decision = decide(done.confidence, finished.bundle.manifest.confidence, wish, Seen(done.input_tokens))
    if decision.route != "abstained":
        message.json = done.record or _found(finished)
        for e in done.entities:
            message.entities.add(label=e.label, text=text[e.start : e.end], start=e.start, end=e.end, score=e.score)
        for name, confidence in done.fields.items():
            message.fields.add(name=name, confidence=confidence)
    _grade(message.confidence, done.confidence, decision)
    finished.explain(message.provenance, decision)
    return decision, done.confidence


def _found(finished: Finished) -> str:
    """Return the record of a model that finds: for each entity type the texts found, in order."""
    record: dict[str, list[str]] = {label: [] for label in messages.entity_types(finished.bundle.manifest)}
    for entity in finished.answer.done.entities:
        record.setdefault(entity.label, []).append(finished.text[entity.start : entity.end])
    return json.dumps(record, ensure_ascii=False)


def embed(message: pb.Embedding, finished: Finished) -> Given:
    """Unpack the vector."""
    vector = finished.answer.done.vector
    message.values.extend(struct.unpack(f"<{len(vector) // 4}f", vector))
    finished.explain(message.provenance)
    return _UNDECIDED, None


def finish(message: pb.GenerateFinish, finished: Finished) -> Given:
    """Write the end of a generation."""
    message.reason = messages.FINISHES[finished.answer.done.finish]
    finished.explain(message.provenance)
    return _UNDECIDED, None


def _grade(message: task_pb2.Confidence, value: float, decision: Decision) -> None:
    message.value, message.below_threshold = value, decision.below_threshold
    if decision.threshold is not None:
        message.threshold = decision.threshold
