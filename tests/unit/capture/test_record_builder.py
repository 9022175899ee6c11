"""Records as the formats read them, without personal data."""

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
def test_record_of_every_kind_can_be_parsed(tmp_path, changes):
    """The record of every kind of answer is parsed by the format's model."""
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
def test_class_of_a_record_decides_the_eviction_order(tmp_path, expected, changes):
    """A record is unsure below a threshold, routine without a confidence, and escalated if a large model answered."""
    kept = recorder(tmp_path).build_prediction(answered(1, **changes), NOW)
    assert expected == (kept.class_, kept.rank)
    assert kept.class_ < REVIEWED


def test_consent_is_set_for_each_task(tmp_path):
    """A task that is collected locally never waits for a segment."""
    writes = recorder(tmp_path, collect={"pos-intent": "local", "talk": "upstream"})
    assert LOCAL == writes.build_prediction(answered(1), NOW).consent
    assert UPSTREAM == writes.build_prediction(answered(1, manifest=manifest("talk")), NOW).consent


def test_input_and_answer_share_placeholders(tmp_path):
    """A card in input and answer gets the same placeholder, and the record has the rules that ran."""
    said = answered(
        1, manifest=manifest("talk"), text=f"pay {CARD}", local_answer=f"charged {CARD}", confidence=None, scores=()
    )
    record = read(recorder(tmp_path).build_prediction(said, NOW).record)
    assert ("pay [CARD_1]", "charged [CARD_1]") == (record.input, record.output)
    assert {"card": 2} == record.redaction.counts
    assert {"card", "iban", "phone"} < set(record.redaction.rules)


def test_marked_fields_are_redacted_unless_the_site_keeps_them(tmp_path):
    """Values of the fields that the bundle's schema marks, such as names, are redacted unless the site keeps the
    field."""
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


def test_value_found_in_the_input_is_redacted_in_the_answer(tmp_path):
    """A name or date that is recognized by the words before it in the input is redacted in the answer; a field that the
    site keeps stays."""
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
    """A telephone number that the model wrote as a JSON number is redacted in record and input."""
    said = answered(
        1,
        manifest=manifest("visit"),
        text="reach me at 491712345678",
        scores=(),
        local_answer='{"phone": 491712345678}',
    )
    kept = read(recorder(tmp_path).build_prediction(said, NOW).record)
    assert ("reach me at [PHONE_1]", '{"phone":"[PHONE_1]"}') == (kept.input, kept.output)


def test_feedback_does_not_reuse_placeholders(tmp_path):
    """A card that a reviewer types gets a placeholder that the prediction does not have."""
    writes = recorder(tmp_path)
    known = {"kind": "generate", "task": "talk", "input": "pay [CARD_1]", "output": "ok"}
    said = judgement(1, value=f"charged [CARD_1], not {CARD}")
    record = example_records.parse(writes.build_feedback(said, known, manifest("talk"), NOW).record)
    assert "charged [CARD_1], not [CARD_2]" == record.value
    known = {"kind": "extract", "task": "visit", "input": "", "output": "{}"}
    said = judgement(1, value='{"PATIENT": ["Anna Meyer"], "DRUG": ["x"]}', reason="")
    record = example_records.parse(writes.build_feedback(said, known, manifest("visit"), NOW).record)
    assert {"PATIENT": ["[PATIENT_1]"], "DRUG": ["x"]} == json.loads(record.value)


def test_label_is_not_redacted(tmp_path):
    """A label is stored unchanged even if it looks like personal data."""
    record = recorder(tmp_path).build_feedback(
        judgement(1, value=CARD), {"kind": "classify", "task": "pos-intent", "input": "", "output": ""}, None, NOW
    )
    assert CARD == example_records.parse(record.record).value


def test_tombstone_names_only_its_prediction(tmp_path):
    """The wish to forget names nothing but the prediction."""
    assert "p-1" == example_records.parse(recorder(tmp_path).build_tombstone("p-1", NOW)).prediction_id


SHADOW = {"route": "upstream", "model": "large-1", "reasons": ("MODE_SHADOW",), "confidence": 0.95, "sure": True}


def test_confidence_is_stored_with_the_local_answer_only(tmp_path):
    """A shadow record has the large model's output without a confidence, and the local answer with its own."""
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


def test_local_and_teacher_records_share_placeholders(tmp_path):
    """The same person gets the same placeholder in both records, and the teacher's fields are in the local order."""
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
def test_records_of_version_0_1_are_interpreted_correctly(changes, local):
    """In an escalated record of version 0.1 the best of its scores is the local answer; without scores the local answer
    is unknown."""
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
def test_value_found_in_a_reason_is_redacted_in_the_correction(tmp_path, task, value, expected):
    """A name that is recognized in the reason of a review is redacted in the corrected answer too."""
    known = {"input": "write", "output": "", "kind": manifest(task).task.kind, "task": task}
    said = judgement(1, value=value, reason="my name is Zyta")
    record = recorder(tmp_path).build_feedback(said, known, manifest(task), NOW).record
    feedback = example_records.parse(record)
    assert (expected, "my name is [NAME_1]") == (feedback.value, feedback.reason)
