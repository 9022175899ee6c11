"""From what an engine computed to the answer a device gets: pure, one function for each task kind."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from operator import itemgetter

from edge_agent.engine.jobs import Answer
from edge_agent.routing.policy import Decision, Wish, decide
from edge_agent.service import messages
from edge_agent.store.state import InstalledBundle
from edge_agent.v1 import inference_pb2 as pb
from edge_agent.v1 import task_pb2

_UNDECIDED = Decision("local", None, below_threshold=False)


@dataclass(frozen=True)
class Finished:
    """One input, what its engine answered, and what belongs to the answer."""

    text: str
    answer: Answer
    bundle: InstalledBundle
    prediction_id: str
    device: str

    def provenance(self, decision: Decision = _UNDECIDED) -> task_pb2.Provenance:
        """Write where the answer comes from."""
        done = self.answer.done
        return task_pb2.Provenance(
            prediction_id=self.prediction_id,
            bundle=messages.bundle_ref(self.bundle),
            route=messages.ROUTES[decision.route],
            timings=task_pb2.Timings(
                queue_ms=self.answer.queue_ms, prefill_ms=done.prefill_ms, decode_ms=done.decode_ms
            ),
            device=self.device,
            degraded=decision.degraded,
            input_tokens=done.input_tokens,
            output_tokens=done.output_tokens,
        )


def classification(finished: Finished, wish: Wish, top_k: int) -> pb.Classification:
    """Rank the labels; withhold the best one when the decision is to abstain. `top_k` 0 = all scores."""
    done, manifest = finished.answer.done, finished.bundle.manifest
    ranked = sorted(zip(done.scores, manifest.task.labels, strict=True), key=itemgetter(0), reverse=True)
    best_score, best_label = ranked[0]
    decision = decide(best_score, manifest.confidence, wish)
    message = pb.Classification(
        label="" if decision.route == "abstained" else best_label,
        confidence=_confidence(best_score, decision),
        label_mass=done.label_mass,
        provenance=finished.provenance(decision),
    )
    for score, label in ranked[: top_k or None]:
        message.scores.add(label=label, score=score)
    return message


def extraction(finished: Finished, wish: Wish) -> pb.Extraction:
    """Write the record: for each entity type the texts found, in order. Empty when the decision is to abstain."""
    done, text = finished.answer.done, finished.text
    decision = decide(done.confidence, finished.bundle.manifest.confidence, wish)
    found = () if decision.route == "abstained" else done.entities
    record: dict[str, list[str]] = {label: [] for label in messages.entity_types(finished.bundle.manifest)}
    for entity in found:
        record.setdefault(entity.label, []).append(text[entity.start : entity.end])
    return pb.Extraction(
        json="" if decision.route == "abstained" else json.dumps(record, ensure_ascii=False),
        entities=[
            pb.Entity(label=e.label, text=text[e.start : e.end], start=e.start, end=e.end, score=e.score) for e in found
        ],
        confidence=_confidence(done.confidence, decision),
        provenance=finished.provenance(decision),
    )


def embedding(finished: Finished) -> pb.Embedding:
    """Unpack the vector."""
    vector = finished.answer.done.vector
    values = struct.unpack(f"<{len(vector) // 4}f", vector)
    return pb.Embedding(values=values, provenance=finished.provenance())


def finish(finished: Finished) -> pb.GenerateFinish:
    """Write the end of a generation."""
    reason = messages.FINISHES[finished.answer.done.finish]
    return pb.GenerateFinish(reason=reason, provenance=finished.provenance())


def _confidence(value: float, decision: Decision) -> task_pb2.Confidence:
    return task_pb2.Confidence(value=value, threshold=decision.threshold, below_threshold=decision.below_threshold)
