"""Questions to the large model, and the check of its answers."""

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


def test_a_question_has_the_task_s_words_and_labels():
    """Instructions, examples and every label come before the input, which stands alone."""
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
def test_a_label_is_read(label, around):
    """An answer that is one of the labels is taken, also out of a Markdown fence."""
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
def test_what_is_no_label_is_not_believed(said, problem):
    """Whatever else comes is named by the rule that it breaks, without its words."""
    reply = large_model_questions.parse_reply(manifest().task, said)
    assert "" == reply.value
    assert reply.problem.startswith(problem)


def test_a_record_that_keeps_the_schema_is_taken():
    """A record comes as JSON, as it was said."""
    assert GOOD == json.loads(large_model_questions.parse_reply(RECORD.task, json.dumps(GOOD)).value)


@pytest.mark.parametrize(
    "change",
    [{"count": 1000}, {"count": 1.5}, {"wish": "money"}, {"day": "2026-02-30"}, {"day": "soon"}, {"product": "x" * 41}],
)
def test_a_record_that_breaks_the_schema_is_not(change):
    """Ranges, choices, lengths and days are held to."""
    reply = large_model_questions.parse_reply(RECORD.task, json.dumps({**GOOD, **change}))
    assert next(iter(change)) in reply.problem


PRICED = manifest(
    "extract", record_schema={"type": "object", "properties": {"name": {"type": "string"}, "price": {"type": "number"}}}
)


@pytest.mark.parametrize("said", ['{"name": "\\ud83d"}', '{"price": 1e999}', '{"name": "a", "name": "b"}'])
def test_a_record_that_two_readers_would_read_differently_is_asked_for_again(said):
    """Half of a surrogate pair is no text, a number out of range none, and of two values of a key none is right."""
    assert "it is not JSON" == large_model_questions.parse_reply(PRICED.task, said).problem


def test_a_record_with_all_kinds_of_text_is_taken():
    """A whole surrogate pair is the character that it stands for."""
    reply = large_model_questions.parse_reply(PRICED.task, '{"name": "\\ud83d\\ude00 \\u0000é", "price": 2.5}')
    assert {"name": "\U0001f600 \0é", "price": 2.5} == json.loads(reply.value)


def test_a_model_that_finds_has_a_record_of_lists():
    """For tags the record has a list of texts for each type."""
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


def test_a_pattern_takes_no_ages():
    """A pattern that Python's matcher would never end with is matched in bounded time."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}, "required": ["a"]}
    task = manifest("extract", record_schema=schema).task
    assert large_model_questions.parse_reply(task, json.dumps({"a": "a" * 60 + "!"})).problem
    assert "" == large_model_questions.parse_reply(task, json.dumps({"a": "a" * 60})).problem


def test_asked_again_with_what_was_wrong():
    """The second question has the first, the answer and the problem."""
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
def test_whatever_comes_is_read_or_refused(said):
    """No answer raises; what is taken keeps the rules."""
    for task in (manifest().task, RECORD.task):
        reply = large_model_questions.parse_reply(task, json.dumps(said))
        assert (reply.value == "") is (reply.problem != "")
