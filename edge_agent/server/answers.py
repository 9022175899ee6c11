"""From what an engine computed to the answer a device gets: pure, one function for each task kind.

Each fills a message where it lies in the response: one made outside would be copied into it, in every call.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from operator import itemgetter
from typing import NamedTuple

from edge_agent.engine.job_dispatch import ComputeInfo, EngineAnswer
from edge_agent.engine.protocol import JobResult
from edge_agent.routing.policy import Asked, Decision, Reason, Seen, decide, gated, marks
from edge_agent.server import messages
from edge_agent.store.state_database import InstalledBundle
from edge_agent.v1 import inference_pb2 as pb
from edge_agent.v1 import task_pb2

UNGRADED = Decision("local", Reason.UNGRADED)


NOT_ASKED = EngineAnswer(JobResult(job_id=""), 0.0, ComputeInfo(""))
"""Of a local model that was not asked."""


class Said(NamedTuple):
    """What the large model answered: a label, a record as JSON, or a text."""

    value: str
    model: str
    took_ms: float
    complete: bool = True
    """False when the limit of tokens ended it."""


class Finished(NamedTuple):
    """One input, what its engine answered, and what belongs to the answer."""

    text: str
    answer: EngineAnswer
    bundle: InstalledBundle
    prediction_id: str
    seconds: float = 0.0
    """From the arrival of the input."""
    decision: Decision = UNGRADED
    said: Said | None = None
    """What the large model answered, where the decision is for it."""
    audited: bool = False
    """It is drawn to be checked by the large model later."""

    def explain(self, message: task_pb2.Provenance) -> None:
        """Write where the answer comes from."""
        done, manifest, decision = self.answer.done, self.bundle.manifest, self.decision
        message.reason = decision.reason
        if self.said is not None:
            message.model, message.timings.upstream_ms = self.said.model, self.said.took_ms
        message.prediction_id = self.prediction_id
        bundle, timings = message.bundle, message.timings
        bundle.task, bundle.version, bundle.digest = manifest.task.name, manifest.version, self.bundle.digest
        message.route = messages.ROUTES[decision.route]
        timings.queue_ms, timings.prefill_ms = self.answer.queue_ms, done.prefill_ms
        timings.decode_ms = done.decode_ms
        message.device = self.answer.computed.device
        if decision.p_value is not None:
            message.p_value = decision.p_value
        message.degraded.extend((*decision.degraded, *self.answer.computed.degraded))
        message.input_tokens, message.output_tokens = done.input_tokens, done.output_tokens


def unasked(text: str, bundle: InstalledBundle, decision: Decision, said: Said | None) -> Finished:
    """Return what there is where no local model was asked."""
    return Finished(text, NOT_ASKED, bundle, new_id(), 0.0, decision, said)


def judge(finished: Finished, asked: Asked) -> Decision:
    """Decide on a local answer that has a confidence."""
    manifest, done = finished.bundle.manifest, finished.answer.done
    seen = Seen(done.input_tokens, done.label_mass, finished.answer.computed.scores_vary, done.ood_score)
    confidence = max(done.scores) if manifest.task.kind == "classify" else done.confidence
    return decide(confidence, manifest.confidence, asked, seen)


def compared(finished: Finished) -> Finished:
    """Return an answer without a confidence, such as a vector, with what the gate of its bundle finds."""
    manifest, done = finished.bundle.manifest, finished.answer.done
    seen = Seen(done.input_tokens, ood_score=done.ood_score)
    p_value, outside = gated(manifest.confidence, seen)
    return finished._replace(decision=replace(UNGRADED, p_value=p_value, degraded=marks(outside)))


def classify(message: pb.Classification, finished: Finished, top_k: int) -> float | None:
    """Rank the labels; withhold the best one when the decision is to abstain. `top_k` 0 = all scores.

    Returns the confidence; None = no local model was asked.
    """
    done, labels = finished.answer.done, finished.bundle.manifest.task.labels
    finished.explain(message.provenance)
    if finished.said is not None:
        message.label = finished.said.value
    if not done.scores:  # no local model was asked
        return None
    ranked = sorted(zip(done.scores, labels, strict=True), key=itemgetter(0), reverse=True)
    if finished.decision.route in ("local", "deferred"):
        message.label = ranked[0][1]
    message.label_mass = done.label_mass
    for score, label in ranked[: top_k or None]:
        pair = message.scores.add()
        pair.label, pair.score = label, score
    _grade(message.confidence, ranked[0][0], finished.decision)
    return ranked[0][0]


def extract(message: pb.Extraction, finished: Finished) -> float | None:
    """Write the record; none when the decision is to abstain. Returns the confidence, if a local model was asked."""
    done, text = finished.answer.done, finished.text
    finished.explain(message.provenance)
    if finished.said is not None:
        message.json = finished.said.value
    if finished.answer is NOT_ASKED:
        return None
    if finished.decision.route in ("local", "deferred"):
        message.json = record(finished)
        for e in done.entities:
            message.entities.add(label=e.label, text=text[e.start : e.end], start=e.start, end=e.end, score=e.score)
        for name, confidence in done.fields.items():
            message.fields.add(name=name, confidence=confidence)
    _grade(message.confidence, done.confidence, finished.decision)
    return done.confidence


def record(finished: Finished) -> str:
    """Return the record that the local model wrote, or found."""
    return finished.answer.done.record or _found(finished)


def _found(finished: Finished) -> str:
    """Return the record of a model that finds: for each entity type the texts found, in order."""
    record: dict[str, list[str]] = {label: [] for label in finished.bundle.manifest.task.record_fields}
    for entity in finished.answer.done.entities:
        record.setdefault(entity.label, []).append(finished.text[entity.start : entity.end])
    return json.dumps(record, ensure_ascii=False)


def embed(message: pb.Embedding, finished: Finished) -> None:
    """Unpack the vector."""
    vector = finished.answer.done.vector
    message.values.extend(struct.unpack(f"<{len(vector) // 4}f", vector))
    finished.explain(message.provenance)


def finish(message: pb.GenerateFinish, finished: Finished) -> None:
    """Write the end of a generation."""
    said, done = finished.said, finished.answer.done
    ended = done.finish or "stop" if said is None else "stop" if said.complete else "length"
    message.reason = messages.FINISHES[ended]
    for token in done.tokens:
        alternatives = [pb.TokenLogprob(token=piece, logprob=value) for piece, value in token.alternatives]
        message.tokens.add(token=token.piece, logprob=token.logprob, alternatives=alternatives)
    finished.explain(message.provenance)


def _grade(message: task_pb2.Confidence, value: float, decision: Decision) -> None:
    message.value, message.below_threshold = value, decision.below_threshold
    if decision.threshold is not None:
        message.threshold = decision.threshold


def new_id() -> str:
    """Return a random UUID4 as text: what `str(uuid.uuid4())` does, at a third of its cost."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
