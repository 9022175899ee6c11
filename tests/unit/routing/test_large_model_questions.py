"""Questions to the large model, and the validation of its answers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.formats.manifest import Manifest
from edge_agent.routing import large_model_questions
from tests.support.bundles import RECORD_SCHEMA

LABELS = ("refund", "price", 'it\'s "other"')


def manifest(kind: str = "classify", **more) -> Manifest:
    task = {"name": "till", "kind": kind, **({"labels": LABELS} if kind == "classify" else {}), **more}
    return Manifest.model_validate({"version": "1.0.0", "runtime": "upstream", "task": task})


RECORD = manifest("extract", record_schema=RECORD_SCHEMA)
GOOD = {"product": "lamp", "count": 2, "wish": "refund", "day": "2026-11-03"}


def test_question_has_the_instructions_and_labels_of_the_task():
    """The system turn has the task's instructions, examples and labels; the input is alone in the user turn."""
    prompt = {
        "chat": True,
        "system": "You work in a shop.",
        "template": "Customer: hi\nWants: other\n\nCustomer: {input}\nWants:",
    }
    asked = large_model_questions.build_question(manifest(prompt=prompt), "I want [MONEY_1] back")
    (system, words), (user, text) = asked.turns
    assert ("system", "user", "I want [MONEY_1] back") == (system, user, text)
    assert all(json.dumps(label) in words for label in LABELS)
    assert "You work in a shop." in words
    assert "Customer: hi\nWants: other" in words
    assert list(LABELS) == json.loads(asked.schema_text)["properties"]["label"]["enum"]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("around", ["{}", " \n{}\n", "```json\n{}\n```", "```\n{}```"])
def test_label_is_accepted_inside_a_code_fence(label, around):
    """A reply that is one of the labels is accepted, also inside a Markdown code fence."""
    assert large_model_questions.LargeModelReply(label) == large_model_questions.parse_reply(
        manifest().task, around.format(json.dumps({"label": label}))
    )


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("refund", "it is not JSON"),
        ('{"label": "refund"', "it is not JSON"),
        ('{"label": NaN}', "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ('{"label": "nonsense"}', "label breaks the rule 'enum'"),
        ('{"label": ["refund"]}', "label breaks the rule"),
        ('{"label": "refund", "why": "x"}', "the answer breaks the rule 'additionalProperties'"),
        ("{}", "the answer breaks the rule 'required'"),
        ('"refund"', "the answer breaks the rule 'type'"),
    ],
)
def test_invalid_label_is_refused(said, problem):
    """Any other reply is refused with the rule that it breaks and without its text."""
    reply = large_model_questions.parse_reply(manifest().task, said)
    assert "" == reply.value
    assert reply.problem.startswith(problem)


def test_record_that_matches_the_schema_is_accepted():
    """A record that matches the schema is returned as JSON."""
    assert GOOD == json.loads(large_model_questions.parse_reply(RECORD.task, json.dumps(GOOD)).value)


@pytest.mark.parametrize(
    "change",
    [{"count": 1000}, {"count": 1.5}, {"wish": "money"}, {"day": "2026-02-30"}, {"day": "soon"}, {"product": "x" * 41}],
)
def test_record_that_breaks_the_schema_is_refused(change):
    """Ranges, choices, lengths and dates of the schema are enforced, and the problem names the field."""
    reply = large_model_questions.parse_reply(RECORD.task, json.dumps({**GOOD, **change}))
    assert next(iter(change)) in reply.problem


PRICED = manifest(
    "extract", record_schema={"type": "object", "properties": {"name": {"type": "string"}, "price": {"type": "number"}}}
)


@pytest.mark.parametrize("said", ['{"name": "\\ud83d"}', '{"price": 1e999}', '{"name": "a", "name": "b"}'])
def test_ambiguous_json_is_refused(said):
    """Half of a surrogate pair, a number out of range and a repeated key count as invalid JSON."""
    assert "it is not JSON" == large_model_questions.parse_reply(PRICED.task, said).problem


def test_escaped_characters_of_a_record_are_decoded():
    """A whole surrogate pair and an escaped NUL are decoded to their characters."""
    reply = large_model_questions.parse_reply(PRICED.task, '{"name": "\\ud83d\\ude00 \\u0000é", "price": 2.5}')
    assert {"name": "\U0001f600 \0é", "price": 2.5} == json.loads(reply.value)


def test_record_of_an_entity_task_has_a_list_for_each_type():
    """The schema of a task with BIO tags has a list of texts for each entity type."""
    task = Manifest.model_validate(
        {
            "version": "1.0.0",
            "runtime": "echo",
            "task": {"name": "t", "kind": "extract", "labels": ("O", "B-PER", "I-PER", "B-LOC")},
        }
    ).task
    assert ["PER", "LOC"] == list(large_model_questions.answer_schema(task)["properties"])
    assert "" == large_model_questions.parse_reply(task, '{"PER": ["Anna"], "LOC": []}').problem
    assert large_model_questions.parse_reply(task, '{"PER": "Anna", "LOC": []}').problem


def test_pattern_is_matched_in_bounded_time():
    """A pattern on which Python's matcher backtracks exponentially is matched in bounded time."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}, "required": ["a"]}
    task = manifest("extract", record_schema=schema).task
    assert large_model_questions.parse_reply(task, json.dumps({"a": "a" * 60 + "!"})).problem
    assert "" == large_model_questions.parse_reply(task, json.dumps({"a": "a" * 60})).problem


def test_second_question_has_the_answer_and_its_problem():
    """The second question has the first one, the refused answer up to a limit, and the problem."""
    first = large_model_questions.build_question(manifest(), "hi")
    again = first.follow_up("x" * 200_000, "it is not JSON")
    assert first.turns == again.turns[:2]
    assert ("assistant", "user") == (again.turns[2][0], again.turns[3][0])
    assert large_model_questions.ANSWER_CHARACTERS_MAX == len(again.turns[2][1])
    assert "it is not JSON" in again.turns[3][1]


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_accepted_or_refused(said):
    """No JSON value raises; each reply has either a value or a problem."""
    for task in (manifest().task, RECORD.task):
        reply = large_model_questions.parse_reply(task, json.dumps(said))
        assert (reply.value == "") is (reply.problem != "")
