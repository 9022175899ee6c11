"""Questions of a decide task in a manifest: which are refused, and their calibration."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_agent.errors import ManifestInvalid
from edge_agent.formats.calibration_and_gate import AlwaysEscalate, Threshold
from edge_agent.formats.manifest import Manifest, encode, parse
from edge_agent.formats.questions import expected_level
from tests.support.bundles import QUESTIONS, merged

CHOICE, PREDICATE, SCORE = QUESTIONS
BASE: dict[str, Any] = {
    "schema": "edge-agent/bundle/v1",
    "task": {"name": "front-desk", "kind": "decide", "questions": QUESTIONS},
    "version": "1.0.0",
    "runtime": "echo",
}
SHA = {"sha256": "0" * 64, "size_bytes": 1}
ONNX = {
    "runtime": "onnx",
    "artifacts": [{"role": "weights", "path": "m", **SHA}, {"role": "tokenizer", "path": "t", **SHA}],
}
CALIBRATED: dict[str, Any] = {
    **{"policy": "threshold", "temperature": 2.0, "threshold": 0.8, "target_risk": 0.05, "delta": 0.03},
    **{"n": 100, "bound": 0.05, "coverage": 0.9},
}
GATE = {"score": "ood_score", "held_up_max": 0.25, "scores": [0.5, 1.0, 1.5]}
GATED: dict[str, Any] = {"policy": "always_escalate", "gate": GATE}


def parsed(**more: Any) -> Manifest:
    return parse(json.dumps(merged(BASE, more)).encode())


def refusal(**more: Any) -> str:
    with pytest.raises(ManifestInvalid) as caught:
        parsed(**more)
    return caught.value.message


def asking(*questions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"task": {"questions": list(questions), **more}}


def test_the_answers_to_each_type():
    """A choice has its options, a predicate no and yes, a score its levels, in the order of the model's outputs."""
    choice, predicate, score = parsed().task.questions_asked
    assert tuple(CHOICE["labels"]) == choice.outputs
    assert ("no", "yes") == predicate.outputs
    assert ("low", "middle", "high") == score.outputs
    assert 1.25 == pytest.approx(expected_level((0.25, 0.25, 0.5)))


def test_a_classify_task_is_one_choice():
    """Its only question has the task's name, labels and calibration."""
    task = {"name": "pos-intent", "kind": "classify", "labels": ["refund", "price"], "questions": []}
    manifest = parsed(task=task, confidence=CALIBRATED)
    (question,) = manifest.task.questions_asked
    assert ("pos-intent", "choice", ("refund", "price")) == (question.name, question.type, question.outputs)
    assert manifest.confidence == manifest.confidence_of("pos-intent")


def test_classify_task_may_have_a_thousand_labels():
    """That is more than the options that a declared question may have."""
    labels = [f"label-{place}" for place in range(1000)]
    manifest = parsed(task={"kind": "classify", "labels": labels, "questions": []})
    assert 1000 == len(manifest.task.questions_asked[0].outputs)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (asking(), "a decide task needs at least 1 question, or 'open_questions: true'"),
        (asking(CHOICE, CHOICE), "duplicate question names: intent"),
        (asking({**CHOICE, "labels": ["only"]}), "question 'intent': a choice has 2 to 255 labels, not 1"),
        (asking({**CHOICE, "labels": [str(i) for i in range(256)]}), "at most 255 items"),
        (
            asking({**SCORE, "labels": [str(i) for i in range(11)]}),
            "question 'severity': a score has 2 to 10 labels, not 11",
        ),
        (asking({**CHOICE, "labels": ["a", "b", "a"]}), "question 'intent' has duplicate labels: a"),
        (asking({**CHOICE, "labels": ["a", ""]}), "task.questions.0.labels.1:"),
        (asking({**PREDICATE, "labels": ["true", "false"]}), "'urgent' is a predicate, whose answers are no and yes"),
        (asking({**SCORE, "descriptions": ["one"]}), "'severity' has 3 possible answers and 1 'descriptions'"),
        (asking({**CHOICE, "instructions": ""}), "task.questions.0.instructions:"),
        (asking({**CHOICE, "instructions": " \n"}), "'instructions' of question 'intent' have no text"),
        (asking({**CHOICE, "instructions": "x" * 2001}), "task.questions.0.instructions:"),
        (asking({**CHOICE, "name": "What?"}), "task.questions.0.name:"),
        (asking({**CHOICE, "type": "essay"}), "task.questions.0.type:"),
        (
            asking(*({**PREDICATE, "name": f"q{i}"} for i in range(65))),
            "task.questions: Tuple should have at most 64 items",
        ),
        ({"task": {"labels": ["a", "b"]}}, "a task of kind decide has no labels"),
        ({"task": {"kind": "classify", "labels": ["a", "b"]}}, "a task of kind classify has no questions"),
        ({**ONNX, **asking(CHOICE, open_questions=True)}, "runtime 'onnx' answers no questions of the call"),
        ({"confidence": CALIBRATED}, "the thresholds of a decide task are in 'question_confidence'"),
        (
            {"question_confidence": {"intnt": CALIBRATED}},
            "'question_confidence' names 'intnt'; the questions are: intent",
        ),
        ({"question_confidence": {"intent": {**CALIBRATED, "gate": GATE}}, **ONNX}, "share its gate"),
        (
            {
                "confidence": {**GATED, "gate": {**GATE, "scores": [1.0]}},
                "question_confidence": {"intent": CALIBRATED},
                **ONNX,
            },
            "it needs 3",
        ),
        ({"confidence": GATED}, "decide on echo has no score for 'confidence.gate'"),
    ],
)
def test_invalid_question_is_refused(more: dict[str, Any], said: str):
    """The message has the question, the count and the limit."""
    assert said in refusal(**more)


def test_bundle_may_have_only_open_questions():
    """It then defines no question, and answers those of the call."""
    assert parsed(**asking(open_questions=True)).task.open_questions


def test_questions_have_their_own_threshold_and_share_the_gate():
    """A question without its own calibration, or one that the bundle does not define, always escalates."""
    manifest = parsed(confidence=GATED, question_confidence={"intent": CALIBRATED}, **ONNX)
    own, other, unknown = map(manifest.confidence_of, ("intent", "urgent", "of-the-call"))
    assert isinstance(own, Threshold)
    assert isinstance(other, AlwaysEscalate)
    assert other == unknown
    assert (0.8, 2.0, GATE["score"]) == (own.threshold, own.temperature, own.gate and own.gate.score)
    assert own.gate == other.gate
    assert "ood_score" == manifest.gate_name


def test_questions_are_read_back():
    """Other kinds of task have no key for questions."""
    first = parsed(confidence=GATED, question_confidence={"intent": CALIBRATED}, **ONNX)
    assert first == parse(encode(first))
    assert encode(first) == encode(parse(encode(first)))
    assert set() == {"gate", "floor"} & json.loads(encode(first))["question_confidence"]["intent"].keys()
    plain = json.loads(encode(parsed(task={"kind": "classify", "labels": ["a", "b"], "questions": []})))
    assert "question_confidence" not in plain
    assert set() == {"questions", "open_questions"} & plain["task"].keys()


def test_prompt_of_a_decoder_has_the_question_after_the_input():
    """The template has {question} exactly once, after {input}."""
    llama = {"runtime": "llama", "artifacts": [{"role": "weights", "path": "m", **SHA}]}
    good = {"prompt": {"template": "Text: {input}\nQuestion: {question}\nAnswer:"}, "open_questions": True}
    assert parsed(**llama, task=good).task.open_questions
    for template in ("{input}", "{question} {input}", "{input} {question} {question}"):
        said = refusal(**llama, task={"prompt": {"template": template}})
        assert "'prompt.template' of decide on llama must hold {question} exactly once, behind {input}" in said


def test_copy_does_not_keep_cached_questions() -> None:
    """A manifest that is copied with other questions does not return the cached ones."""
    task = parsed().task
    assert 3 == len(task.questions_asked)
    fewer = task.model_copy(update={"questions": task.questions[:1]})
    assert task.questions[:1] == fewer.questions_asked
    assert ("a", "b") == task.questions[0].model_copy(update={"labels": ("a", "b")}).outputs


def test_question_has_the_reason_for_a_missing_threshold():
    """A question with a calibration section was calibrated even if that proved nothing; a gate of the bundle does not
    count."""
    sections = {"intent": CALIBRATED, "urgent": {"policy": "always_escalate"}}
    manifest = parsed(confidence=GATED, question_confidence=sections, **ONNX)
    reasons = [manifest.no_threshold_reason(name) for name in ("intent", "urgent", "of-the-call")]
    assert ["", "NONE_PROVED", "NOT_CALIBRATED"] == reasons
