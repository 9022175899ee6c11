"""Conversion of what an engine computed to the answer for a device."""

import json
import struct
from typing import Any

import pytest

from edge_agent.engine.job_dispatch import EngineAnswer
from edge_agent.engine.protocol import EntitySpan, JobResult
from edge_agent.formats.manifest import Manifest, digest_of, encode
from edge_agent.formats.questions import QuestionSpec
from edge_agent.routing.policy import EscalationContext, LowConfidencePolicy, RouteDecision, RouteReason
from edge_agent.server import finished_answers
from edge_agent.server.finished_answers import FinishedAnswer, LargeModelAnswer
from edge_agent.store.state_database import InstalledBundle
from edge_agent.v1 import inference_pb2 as pb
from edge_agent.v1 import task_pb2

LABELS = ("refund", "price", "stock")
TAGS = ("O", "B-product", "I-product", "B-price", "I-price")
KINDS: dict[str, tuple[str, ...]] = {"classify": LABELS, "extract": TAGS, "generate": (), "embed": ()}
AT_75 = {
    "policy": "threshold",
    "temperature": 1.0,
    "threshold": 0.75,
    "target_risk": 0.05,
    "delta": 0.1,
    "n": 100,
    "bound": 0.04,
    "coverage": 0.7,
}


def finished(kind: str, text: str = "", calibration: Any = AT_75, **done: Any) -> FinishedAnswer:
    """Return one input that an engine answered with these fields."""
    task = {"name": "till", "kind": kind, "labels": KINDS[kind]}
    fields = {"schema": "edge-agent/bundle/v1", "runtime": "echo", "version": "1.2.3", "task": task}
    manifest = Manifest.model_validate({**fields, **({"confidence": calibration} if calibration else {})})
    bundle = InstalledBundle(digest_of(encode(manifest)), encode(manifest), manifest, signed=False, installed_at=0.0)
    answer = EngineAnswer(JobResult(job_id="j", **done), queue_ms=1.5)
    return FinishedAnswer(text, answer, bundle, prediction_id="p-1")


def classification(done: FinishedAnswer, wish: LowConfidencePolicy, top_k: int) -> pb.Classification:
    message = pb.Classification()
    finished_answers.fill_classification(
        message,
        done._replace(decision=finished_answers.decide_on_local_answer(done, EscalationContext(low_confidence=wish))),
        top_k,
    )
    return message


def extraction(done: FinishedAnswer, wish: LowConfidencePolicy) -> pb.Extraction:
    message = pb.Extraction()
    finished_answers.fill_extraction(
        message,
        done._replace(decision=finished_answers.decide_on_local_answer(done, EscalationContext(low_confidence=wish))),
    )
    return message


def embedding(done: FinishedAnswer) -> pb.Embedding:
    message = pb.Embedding()
    finished_answers.fill_embedding(message, done)
    return message


def finish(done: FinishedAnswer) -> pb.GenerateFinish:
    message = pb.GenerateFinish()
    finished_answers.fill_finish(message, done)
    return message


def ranking(answer: pb.Classification) -> list[tuple[str, float]]:
    """Return the labels with their scores, in the order of the answer."""
    return [(pair.label, pair.score) for pair in answer.scores]


def test_label_with_the_highest_score_is_the_answer():
    """The label with the highest score is the answer, and all labels are sorted by score."""
    answer = classification(finished("classify", scores=(0.05, 0.8, 0.15), label_mass=0.9), "answer", 0)
    assert "price" == answer.label
    assert [("price", 0.8), ("stock", 0.15), ("refund", 0.05)] == ranking(answer)
    assert 0.9 == answer.label_mass
    assert task_pb2.Confidence(value=0.8, threshold=0.75) == answer.confidence
    assert task_pb2.ROUTE_LOCAL == answer.provenance.route


def test_equal_scores_keep_the_model_s_order():
    """Among labels with the same score, the model's first is the answer."""
    answer = classification(finished("classify", scores=(0.25, 0.375, 0.375)), "answer", 0)
    assert ["price", "stock", "refund"] == [label for label, _ in ranking(answer)]


@pytest.mark.parametrize(("top_k", "shown"), [(0, 3), (1, 1), (2, 2), (3, 3), (2**32 - 1, 3)])
def test_top_k_limits_the_number_of_scores(top_k, shown):
    """The best `top_k` scores are returned; 0 returns all."""
    done = finished("classify", scores=(0.05, 0.8, 0.15))
    whole = ranking(classification(done, "answer", 0))
    assert whole[:shown] == ranking(classification(done, "answer", top_k))


@pytest.mark.parametrize(
    ("wish", "label", "route", "degraded"),
    [
        ("answer", "price", task_pb2.ROUTE_LOCAL, []),
        ("abstain", "", task_pb2.ROUTE_ABSTAINED, []),
        ("escalate", "price", task_pb2.ROUTE_LOCAL, ["UPSTREAM_NOT_CONFIGURED"]),
    ],
)
def test_label_below_the_threshold_follows_the_request(wish, label, route, degraded):
    """Below the threshold the label is returned and marked, withheld, or returned with the blocker, as the caller
    requested."""
    answer = classification(finished("classify", scores=(0.3, 0.6, 0.1)), wish, 0)
    assert (label, route, degraded) == (answer.label, answer.provenance.route, list(answer.provenance.degraded))
    assert task_pb2.Confidence(value=0.6, threshold=0.75, below_threshold=True) == answer.confidence
    assert ("price", 0.6) == ranking(answer)[0]


def test_answer_of_an_uncalibrated_bundle_is_below_threshold():
    """Without a threshold the field is unset, and every answer counts as below it."""
    unsure = finished("classify", calibration=None, scores=(1.0, 0.0, 0.0))
    answer = classification(unsure, "answer", 0)
    why = task_pb2.NO_THRESHOLD_REASON_NOT_CALIBRATED
    assert task_pb2.Confidence(value=1.0, below_threshold=True, no_threshold_reason=why) == answer.confidence
    assert "" == classification(unsure, "abstain", 0).label


GATE = {"score": "label_mass", "held_up_max": 0.25, "scores": [0.5, 1.0, 1.5]}


@pytest.mark.parametrize(
    ("calibration", "reason"),
    [
        (AT_75, task_pb2.NO_THRESHOLD_REASON_UNSPECIFIED),
        (None, task_pb2.NO_THRESHOLD_REASON_NOT_CALIBRATED),
        ({"policy": "always_escalate", "temperature": 1.4}, task_pb2.NO_THRESHOLD_REASON_NONE_PROVED),
    ],
)
def test_answer_has_the_reason_for_a_missing_threshold(calibration, reason):
    """The reason tells a bundle that was never calibrated from one whose calibration proved no threshold."""
    done = finished("classify", calibration=calibration, scores=(0.2, 0.5, 0.3))
    assert reason == classification(done, "answer", 0).confidence.no_threshold_reason


@pytest.mark.parametrize(("label_mass", "p_value", "below"), [(1.0, 1.0, False), (0.3, 0.5, False), (0.1, 0.25, True)])
def test_label_mass_is_the_gate_score_of_a_decoder(label_mass, p_value, below):
    """The gate's score of a decoder is the negative logarithm of the label mass; the answer carries the p-value."""
    done = finished("classify", calibration=AT_75 | {"gate": GATE}, scores=(0.9, 0.1, 0.0), label_mass=label_mass)
    answer = classification(done, "abstain", 0)
    assert (p_value, below) == (answer.provenance.p_value, answer.confidence.below_threshold)
    assert ("" if below else "refund") == answer.label
    assert (["OUT_OF_DISTRIBUTION"] if below else []) == list(answer.provenance.degraded)


def test_without_a_gate_there_is_no_p_value():
    """Without a gate the p-value is unset, in classifications and in embeddings."""
    label = classification(finished("classify", scores=(0.9, 0.1, 0.0)), "answer", 0)
    vector = embedding(finished_answers.with_gate_result(finished("embed", vector=bytes(8))))
    assert [False, False] == [each.provenance.HasField("p_value") for each in (label, vector)]


def test_a_floor_above_the_threshold_is_the_threshold_of_an_answer():
    """If the floor exceeds the threshold, the answer carries the floor as its threshold, so that comparing it with the
    confidence gives `below_threshold`."""
    done = finished("classify", calibration=AT_75 | {"floor": 0.85}, scores=(0.8, 0.2, 0.0))
    answer = classification(done, "answer", 0)
    assert task_pb2.Confidence(value=0.8, threshold=0.85, below_threshold=True) == answer.confidence
    assert "BELOW_FLOOR" == answer.provenance.reason


def test_an_unusual_input_is_marked():
    """A label mass or input length outside the usual limits of the bundle is among the reasons of the answer."""
    usual = {"label_mass_min": 0.5, "input_tokens_min": 3, "input_tokens_max": 9}
    calibration = AT_75 | {"novelty": usual}
    label = finished("classify", calibration=calibration, scores=(0.9, 0.1, 0.0), label_mass=0.4, input_tokens=10)
    given = classification(label, "abstain", 0)
    assert ["LABEL_MASS_UNUSUAL", "INPUT_LENGTH_UNUSUAL"] == list(given.provenance.degraded)
    assert ("refund", False) == (given.label, given.confidence.below_threshold)
    record = finished("extract", calibration=calibration, confidence=0.9, input_tokens=2)
    assert ["INPUT_LENGTH_UNUSUAL"] == list(extraction(record, "answer").provenance.degraded)


def test_wrong_number_of_scores_raises():
    """A model with another number of scores than labels raises ValueError."""
    with pytest.raises(ValueError, match="zip"):
        classification(finished("classify", scores=(0.5, 0.5)), "answer", 0)


def test_record_has_every_entity_type():
    """The record lists what was found for each entity type, in order, and an empty list for the others."""
    text = "two lamps and one lamp"
    found = (EntitySpan("product", 4, 9, 0.9), EntitySpan("product", 18, 22, 0.8))
    answer = extraction(finished("extract", text, entities=found), "answer")
    assert {"product": ["lamps", "lamp"], "price": []} == json.loads(answer.json)
    assert [
        pb.Entity(label="product", text="lamps", start=4, end=9, score=0.9),
        pb.Entity(label="product", text="lamp", start=18, end=22, score=0.8),
    ] == list(answer.entities)


@pytest.mark.parametrize(
    ("text", "start", "end", "found"),
    [
        ("Größe: 42 €", 7, 11, "42 €"),
        ("😀😀 lamp", 3, 7, "lamp"),
        ("e\u0301clair, 漢字", 8, 11, " 漢字"),
        ("👩\u200d🔧 tool", 0, 3, "👩\u200d🔧"),
    ],
)
def test_entity_positions_count_code_points(text, start, end, found):
    """Start and end count Unicode code points, whatever their width in bytes or on the screen."""
    answer = extraction(finished("extract", text, entities=(EntitySpan("product", start, end, 1.0),)), "answer")
    (entity,) = answer.entities
    assert (start, end, found) == (entity.start, entity.end, entity.text)
    assert {"product": [found], "price": []} == json.loads(answer.json)


def test_record_keeps_non_ascii_letters():
    """The JSON record has letters beyond ASCII unescaped."""
    answer = extraction(finished("extract", "漢字", entities=(EntitySpan("product", 0, 2, 1.0),)), "answer")
    assert '{"product": ["漢字"], "price": []}' == answer.json


def test_entity_type_beyond_the_labels_is_in_the_record():
    """An entity of a type that is not among the labels is in the record."""
    answer = extraction(finished("extract", "7", entities=(EntitySpan("size", 0, 1, 1.0),)), "answer")
    assert {"product": [], "price": [], "size": ["7"]} == json.loads(answer.json)


def test_record_of_a_decoder_is_returned_unchanged():
    """A record that a decoder wrote is returned unchanged with the confidences of its fields, and withheld together
    with them."""
    done = finished("extract", "7 lamps", record='{"b": "ö", "a": 7}', fields={"b": 0.5, "a": 0.75}, confidence=0.375)
    answer = extraction(done, "answer")
    assert '{"b": "ö", "a": 7}' == answer.json
    assert [("b", 0.5), ("a", 0.75)] == [(field.name, field.confidence) for field in answer.fields]
    assert (0.375, []) == (answer.confidence.value, list(answer.entities))
    withheld = extraction(done, "abstain")
    assert ("", []) == (withheld.json, list(withheld.fields))


@pytest.mark.parametrize(
    ("confidence", "wish", "withheld"),
    [(0.75, "abstain", False), (0.74, "abstain", True), (0.74, "answer", False), (0.74, "escalate", False)],
)
def test_record_below_the_threshold_follows_the_request(confidence, wish, withheld):
    """Below the threshold the record is withheld only if the caller requested to abstain; the confidence is always
    returned."""
    entities = (EntitySpan("product", 0, 4, 0.9),)
    answer = extraction(finished("extract", "lamp", entities=entities, confidence=confidence), wish)
    assert withheld == (answer.json == "")
    assert withheld == (not answer.entities)
    assert withheld == (answer.provenance.route == task_pb2.ROUTE_ABSTAINED)
    assert task_pb2.Confidence(value=confidence, threshold=0.75, below_threshold=confidence < 0.75) == answer.confidence


@pytest.mark.parametrize("values", [(), (0.5,), (1.0, -0.25, 3.0e38, 1.0e-40)])
def test_vector_is_returned_unchanged(values):
    """The vector has the same numbers as the engine's bytes."""
    packed = struct.pack(f"<{len(values)}f", *values)
    answer = embedding(finished("embed", vector=packed))
    assert packed == struct.pack(f"<{len(values)}f", *answer.values)
    assert task_pb2.ROUTE_LOCAL == answer.provenance.route


@pytest.mark.parametrize(("word", "reason"), [("stop", pb.FINISH_REASON_STOP), ("length", pb.FINISH_REASON_LENGTH)])
def test_generation_ends_with_its_reason(word, reason):
    """The end of a generation has its reason."""
    assert reason == finish(finished("generate", finish=word)).reason


def test_answer_has_its_provenance():
    """An answer has its id, bundle, device, tokens and times."""
    done = finished("generate", finish="stop", input_tokens=9, output_tokens=4, prefill_ms=2.5, decode_ms=40.0)
    expected = task_pb2.Provenance(
        prediction_id="p-1",
        bundle=task_pb2.BundleRef(task="till", version="1.2.3", digest=done.bundle.digest),
        route=task_pb2.ROUTE_LOCAL,
        timings=task_pb2.Timings(queue_ms=1.5, prefill_ms=2.5, decode_ms=40.0),
        device="cpu",
        input_tokens=9,
        output_tokens=4,
        reason="UNGRADED",
    )
    assert expected == finish(done).provenance


SHADOW = RouteDecision("upstream", RouteReason.MODE_SHADOW, 0.75, below_threshold=False)


def test_label_of_the_large_model_is_returned_with_local_scores():
    """If the large model answered, its label is returned with the local scores, the model's name and its latency."""
    message = pb.Classification()
    done = finished("classify", scores=(0.05, 0.8, 0.15))._replace(
        decision=SHADOW, large_model=LargeModelAnswer("stock", "big-1", 250.0)
    )
    finished_answers.fill_classification(message, done, 1)
    assert ("stock", [("price", 0.8)]) == (message.label, ranking(message))
    provenance = message.provenance
    assert ("big-1", 250.0, "MODE_SHADOW") == (provenance.model, provenance.timings.upstream_ms, provenance.reason)
    assert task_pb2.ROUTE_UPSTREAM == provenance.route


@pytest.mark.parametrize(("said", "label"), [(LargeModelAnswer("stock", "big-1", 1.0), "stock"), (None, "")])
def test_answer_without_a_local_model_has_no_scores(said, label):
    """In mode bootstrap an answer has the large model's label or none, and no confidence."""
    bundle = finished("classify").bundle
    route = "upstream" if said else "abstained"
    message = pb.Classification()
    finished_answers.fill_classification(
        message,
        finished_answers.without_local_answer("hi", bundle, RouteDecision(route, RouteReason.MODE_BOOTSTRAP), said),
        0,
    )
    assert (label, [], False) == (message.label, ranking(message), message.HasField("confidence"))
    record = pb.Extraction()
    bundle = finished("extract").bundle
    said = said._replace(value='{"price": []}') if said else None
    finished_answers.fill_extraction(
        record,
        finished_answers.without_local_answer("hi", bundle, RouteDecision(route, RouteReason.MODE_BOOTSTRAP), said),
    )
    assert ('{"price": []}' if said else "", False) == (record.json, record.HasField("confidence"))


class IncomparableQuestion(QuestionSpec):
    """A question that raises when it is compared with another."""

    def __eq__(self, other: object) -> bool:
        pytest.fail("a question is compared")

    __hash__ = None


def test_answers_are_split_by_question_names():
    """Answers are assigned by question name: comparing whole questions with each other blocked the event loop for a
    third of a second."""
    questions = [
        IncomparableQuestion.model_validate({"name": f"q{number}", "type": "predicate", "instructions": "Is it?"})
        for number in range(5)
    ]
    task = {"name": "till", "kind": "decide", "open_questions": True, "prompt": {"template": "{input} {question}"}}
    manifest = Manifest.model_validate({"runtime": "echo", "version": "1.2.3", "task": task})
    bundle = InstalledBundle(digest_of(encode(manifest)), encode(manifest), manifest, signed=False, installed_at=0.0)
    scores = tuple((number / 10, 1 - number / 10) for number in range(5))
    done = FinishedAnswer("hi", EngineAnswer(JobResult(job_id="j", question_scores=scores), 1.5), bundle, "p-1")
    found = finished_answers.split_by_question(done, questions, questions[3:])
    assert [("q3", scores[3]), ("q4", scores[4])] == [
        (each.question.name, each.answer.result.scores) for each in found if each.question
    ]
    assert 2 == len({each.prediction_id for each in found})
