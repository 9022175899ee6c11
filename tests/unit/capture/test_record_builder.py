"""Records: what a site writes is what the formats read, and nothing personal is in it."""

from __future__ import annotations

import json

import pytest

from edge_agent.capture.record_builder import RecordBuilder
from edge_agent.capture.spool import ESCALATED, LOCAL, REVIEWED, ROUTINE, UNRANKED, UNSURE, UPSTREAM
from edge_agent.capture.text_redaction import build_redactor
from edge_agent.config import Config
from edge_agent.formats import example_records
from tests.support.examples import NOW, prediction
from tests.support.site_cases import answered, config_of, judgement, manifest

CARD = "4111 1111 1111 1111"


def recorder(tmp_path, **examples) -> RecordBuilder:
    config: Config = config_of(tmp_path, **examples)
    return RecordBuilder(config.examples, "site-1", build_redactor(config))


def read(record: bytes) -> example_records.ExamplePrediction:
    return example_records.parse(record[:-1] + b',"kept":{"because":"unsure"}}')


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"confidence": 0.9, "sure": True, "threshold": None, "label_mass": None},
        {"p_value": 0.015625, "held_up": "OUT_OF_DISTRIBUTION", "reasons": ("OUT_OF_DISTRIBUTION",)},
        {
            "manifest": manifest("talk"),
            "scores": (),
            "confidence": None,
            "threshold": None,
            "local_answer": 'Hello.\n"You"',
        },
        {"manifest": manifest("visit"), "scores": (), "local_answer": '{"PATIENT": ["Anna"], "DRUG": []}'},
        {"route": "abstained", "reasons": ("UPSTREAM_NOT_CONFIGURED",), "text": "\u00e9\U0001f600\n\x00"},
    ],
)
def test_what_a_site_writes_is_a_record(tmp_path, changes):
    """Every kind of answer is read back by the model of the format."""
    kept = recorder(tmp_path).build_prediction(answered(7, **changes), NOW)
    record = read(kept.record)
    assert ("prediction:p-7", "site-1", "p-7") == (record.record_id, record.site, record.prediction_id)
    assert answered(7, **changes).text == record.input
    assert changes.get("route", "local") == record.route
    assert changes.get("p_value") == record.p_value


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        ((UNSURE, 0.75), {}),
        ((ROUTINE, 0.9), {"confidence": 0.9, "sure": True}),
        ((ROUTINE, UNRANKED), {"manifest": manifest("talk"), "confidence": None}),
        ((ESCALATED, 0.75), {"route": "upstream"}),
        ((ESCALATED, 0.75), {"route": "deferred", "sure": True}),
    ],
)
def test_classes_say_who_is_given_up_first(tmp_path, expected, changes):
    """Unsure means below a threshold; a kind without confidence is routine; what a large model saw is escalated."""
    kept = recorder(tmp_path).build_prediction(answered(1, **changes), NOW)
    assert expected == (kept.class_, kept.rank)
    assert kept.class_ < REVIEWED


def test_consent_is_that_of_the_task(tmp_path):
    """A task that is collected for the site only never waits for a segment."""
    writes = recorder(tmp_path, collect={"pos-intent": "local", "talk": "upstream"})
    assert LOCAL == writes.build_prediction(answered(1), NOW).consent
    assert UPSTREAM == writes.build_prediction(answered(1, manifest=manifest("talk")), NOW).consent


def test_inputs_and_texts_are_redacted_together(tmp_path):
    """A card in the input and in the answer is the same placeholder, and the record says which rules ran."""
    said = answered(
        1, manifest=manifest("talk"), text=f"pay {CARD}", local_answer=f"charged {CARD}", confidence=None, scores=()
    )
    record = read(recorder(tmp_path).build_prediction(said, NOW).record)
    assert ("pay [CARD_1]", "charged [CARD_1]") == (record.input, record.output)
    assert {"card": 2} == record.redaction.counts
    assert {"card", "iban", "phone"} < set(record.redaction.rules)


def test_fields_that_the_bundle_marks_are_hidden_unless_the_site_keeps_them(tmp_path):
    """Names have no form; the schema knows where they are."""
    said = answered(
        1,
        manifest=manifest("visit"),
        text="Anna Meyer takes ibuprofen",
        scores=(),
        local_answer='{"PATIENT": ["Anna Meyer"]}',
    )
    hidden = read(recorder(tmp_path).build_prediction(said, NOW).record)
    assert ("[PATIENT_1] takes ibuprofen", '{"PATIENT":["[PATIENT_1]"]}') == (hidden.input, hidden.output)
    kept = read(recorder(tmp_path, keep_fields={"visit": ["PATIENT"]}).build_prediction(said, NOW).record)
    assert ("Anna Meyer takes ibuprofen", '{"PATIENT":["Anna Meyer"]}') == (kept.input, kept.output)


def test_what_the_inputs_words_tell_is_replaced_in_the_answer(tmp_path):
    """The answer repeats a name and a date without the words before them; a field that the site keeps stays."""
    text = "my name is Anna Meyer, date of birth 14.03.2024"
    talk = answered(1, manifest=manifest("talk"), text=text, local_answer="Anna Meyer is here", scores=())
    record = read(recorder(tmp_path).build_prediction(talk, NOW).record)
    assert ("my name is [NAME_1], date of birth [DATE_1]", "[NAME_1] is here") == (record.input, record.output)
    said = answered(
        1,
        manifest=manifest("visit"),
        text=text,
        local_answer='{"DRUG": ["14.03.2024"], "PATIENT": ["Anna Meyer"]}',
        teacher_answer='{"DRUG": [], "PATIENT": ["Anna Meyer"]}',
        **{**SHADOW, "scores": ()},
    )
    kept = recorder(tmp_path, keep_fields={"visit": ["PATIENT"]}).build_prediction(said, NOW)
    plain = json.loads(kept.record)
    assert '{"DRUG":["[DATE_1]"],"PATIENT":["Anna Meyer"]}' == plain["local"]["answer"]
    assert '{"DRUG":[],"PATIENT":["Anna Meyer"]}' == plain["output"]


def test_numbers_of_a_record_are_redacted(tmp_path):
    """A telephone number that a model writes as a number is not stored, in the record nor in the input."""
    said = answered(
        1,
        manifest=manifest("visit"),
        text="reach me at 491712345678",
        scores=(),
        local_answer='{"phone": 491712345678}',
    )
    kept = read(recorder(tmp_path).build_prediction(said, NOW).record)
    assert ("reach me at [PHONE_1]", '{"phone":"[PHONE_1]"}') == (kept.input, kept.output)


def test_feedback_is_redacted_without_reusing_numbers(tmp_path):
    """A reviewer who types a card gets a placeholder that the prediction does not have."""
    writes = recorder(tmp_path)
    known = {"kind": "generate", "task": "talk", "input": "pay [CARD_1]", "output": "ok"}
    said = judgement(1, value=f"charged [CARD_1], not {CARD}")
    record = example_records.parse(writes.build_feedback(said, known, manifest("talk"), NOW).record)
    assert "charged [CARD_1], not [CARD_2]" == record.value
    known = {"kind": "extract", "task": "visit", "input": "", "output": "{}"}
    said = judgement(1, value='{"PATIENT": ["Anna Meyer"], "DRUG": ["x"]}', reason="")
    record = example_records.parse(writes.build_feedback(said, known, manifest("visit"), NOW).record)
    assert {"PATIENT": ["[PATIENT_1]"], "DRUG": ["x"]} == json.loads(record.value)


def test_a_label_is_kept_as_it_is(tmp_path):
    """Labels are the task's words, even where they look like personal data."""
    record = recorder(tmp_path).build_feedback(
        judgement(1, value=CARD), {"kind": "classify", "task": "pos-intent", "input": "", "output": ""}, None, NOW
    )
    assert CARD == example_records.parse(record.record).value


def test_a_tombstone_is_a_record(tmp_path):
    """The wish to forget names nothing but the prediction."""
    assert "p-1" == example_records.parse(recorder(tmp_path).build_tombstone("p-1", NOW)).prediction_id


SHADOW = {"route": "upstream", "model": "large-1", "reasons": ("MODE_SHADOW",), "confidence": 0.95, "sure": True}


def test_the_local_confidence_never_stands_beside_the_large_models_answer(tmp_path):
    """A shadow record has the large model's output without any grade, and the local answer with its own."""
    kept = recorder(tmp_path).build_prediction(answered(1, teacher_answer="price", **SHADOW), NOW)
    plain = json.loads(kept.record)
    assert ("price", None, None, False, []) == tuple(
        plain[name] for name in ("output", "confidence", "threshold", "sure", "scores")
    )
    assert ("refund", 0.95, True) == tuple(plain["local"][name] for name in ("answer", "confidence", "sure"))
    record = read(kept.record)
    assert record.local_answer is not None
    assert ("refund", 0.95, "price") == (
        record.local_answer.answer,
        record.local_answer.confidence,
        record.teacher_answer,
    )
    assert 0.95 == kept.rank


def test_both_records_are_redacted_alike(tmp_path):
    """The same person gets the same placeholder in either, and the large model's fields stand in the local order."""
    both = answered(
        1,
        manifest=manifest("visit"),
        text="Anna Meyer takes ibuprofen",
        local_answer='{"PATIENT": ["Anna Meyer"], "DRUG": []}',
        teacher_answer='{"DRUG": ["ibuprofen"], "PATIENT": ["Anna Meyer"]}',
        **{**SHADOW, "scores": ()},
    )
    plain = json.loads(recorder(tmp_path).build_prediction(both, NOW).record)
    assert '{"PATIENT":["[PATIENT_1]"],"DRUG":["ibuprofen"]}' == plain["output"]
    assert '{"PATIENT":["[PATIENT_1]"],"DRUG":[]}' == plain["local"]["answer"]


@pytest.mark.parametrize(
    ("changes", "local"),
    [
        ({"route": "upstream", "model": "large-1", "sure": True}, "refund"),
        ({"route": "upstream", "model": "large-1", "scores": [], "kind": "extract", "sure": True}, None),
        ({"route": "upstream", "model": "large-1", "scores": [], "confidence": None}, None),
        ({"route": "local"}, "price"),
        ({"route": "abstained", "output": "", "scores": [], "confidence": None}, None),
    ],
)
def test_records_of_version_0_1_mean_what_they_meant(changes, local):
    """Where it escalated, the best of the kept scores was the local answer; without scores that is unknown."""
    now = json.loads(example_records.encode(prediction(output="price")))
    old = {name: value for name, value in now.items() if name != "local"} | {"output": "price", **changes}
    record = example_records.parse(json.dumps(old).encode())
    found = record.local_answer
    assert local == (found.answer if found else None)
    assert ("price" if "model" in changes else None) == record.teacher_answer
    assert record == example_records.parse(example_records.encode(record))
    if record.teacher_answer is not None:
        assert (None, False, ()) == (record.confidence, record.sure, record.scores)
    spooled = example_records.parse_stored(
        json.dumps({name: value for name, value in old.items() if name != "kept"}).encode()
    )
    apart = example_records.local_answer(spooled)
    assert local == (apart["answer"] if apart else None)


@pytest.mark.parametrize(
    ("task", "value", "expected"),
    [("talk", "Zyta will call", "[NAME_1] will call"), ("visit", '{"DRUG":["Zyta"]}', '{"DRUG":["[NAME_1]"]}')],
)
def test_what_only_the_reason_of_a_review_tells_is_replaced_in_its_value(tmp_path, task, value, expected):
    """A name is found by the words before it; alone in the corrected answer it is the same name."""
    known = {"input": "write", "output": "", "kind": manifest(task).task.kind, "task": task}
    said = judgement(1, value=value, reason="my name is Zyta")
    record = recorder(tmp_path).build_feedback(said, known, manifest(task), NOW).record
    feedback = example_records.parse(record)
    assert (expected, "my name is [NAME_1]") == (feedback.value, feedback.reason)
