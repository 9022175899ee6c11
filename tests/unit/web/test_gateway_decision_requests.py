"""Decision requests of both APIs: what is parsed, what a task answers, and what is refused by name."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.client import BundleRef, QuestionOption, Task, TaskQuestion, render_state
from edge_agent.web.gateway import decision_requests
from edge_agent.web.gateway.decision_requests import DecisionRequest
from edge_agent.web.gateway.openai_responses import GatewayError

LABELS = ("refund", "price")
CHOICES = [{"value": "refund", "description": "money back"}, {"value": "price"}]
CHOICE = {"type": "choice", "instructions": "What is it about?", "choices": CHOICES}
PREDICATE = {"type": "predicate", "instructions": "It is urgent."}
SCORE = {"type": "score", "instructions": "How bad is it?", "levels": [{"label": "low"}, {"label": "high"}]}
NAMED = {"till": {"type": "choice", "criteria": {"refund": None, "price": "what it costs"}}}


def task(*labels: str, kind: str = "CLASSIFY") -> Task:
    return Task(
        name="till",
        kind=kind,
        bundle=BundleRef("till", "1.0.0", "ab" * 32),
        labels=labels or LABELS,
        input_tokens_max=100,
        output_tokens_max=0,
        inputs_max=4,
        ready=True,
        signed=True,
        threshold=0.8,
    )


def decisions(*questions: dict[str, Any], **more: Any) -> DecisionRequest:
    body = {"model": "till", "input": "my money", "questions": list(questions or [CHOICE]), **more}
    return decision_requests.parse_decisions(json.dumps(body).encode())


def system_one(questions: Any = None, **more: Any) -> DecisionRequest:
    body = {"model": "till", "state": "my money", "questions": NAMED if questions is None else questions, **more}
    return decision_requests.parse_system_one(json.dumps(body).encode())


def deep(levels: int) -> Any:
    """Return objects nested to this depth."""
    value: Any = "x"
    for _ in range(levels):
        value = {"a": value}
    return value


def refused(call: Any, *arguments: Any, **more: Any) -> tuple[str, str]:
    with pytest.raises(GatewayError) as caught:
        call(*arguments, **more)
    return caught.value.param, caught.value.message


def test_both_apis_yield_the_same_question() -> None:
    """A question of either API has the same kind, name and values."""
    [ours], [theirs] = decisions({**CHOICE, "name": "till"}).questions, system_one().questions
    assert (ours.kind, ours.name, ours.values) == (theirs.kind, theirs.name, theirs.values)
    assert ("choice", "till", LABELS) == (ours.kind, ours.name, ours.values)
    for asked in (decisions({**CHOICE, "name": "till"}), system_one()):
        [matched] = decision_requests.match_questions(asked, task())
        assert ("till", LABELS) == (matched.question.name, matched.labels)


@pytest.mark.parametrize(
    "given",
    [
        "my money",
        [{"role": "user", "content": "my money"}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "my money"}]}],
    ],
)
def test_input_is_a_text_or_one_user_message(given: Any) -> None:
    """However it is written."""
    assert "my money" == decisions(input=given).text


def test_json_state_is_rendered_as_one_text() -> None:
    """A JSON state has the same text as a state or a message part, in any order of members; each part of a message is a
    line."""
    state = {"subject": "Grüße", "items": [{"n": 1, "left": None}, 1.5, True]}
    text = '{"items":[{"left":null,"n":1},1.5,true],"subject":"Grüße"}'
    assert text == system_one(state=state).text == render_state(state)
    assert text == system_one(state=dict(reversed(state.items()))).text
    parts = [{"type": "input_json", "data": state}, {"type": "input_text", "text": "and?"}]
    assert f"{text}\nand?" == decisions(input=[{"role": "user", "content": parts}]).text
    assert 32 == system_one(state=deep(32)).text.count("{")
    [question] = decisions({**PREDICATE, "instructions": [{"type": "input_json", "data": ["urgent"]}]}).questions
    assert '["urgent"]' == question.instructions


def test_number_that_is_not_finite_is_refused() -> None:
    """A literal beyond the range of floats and the word NaN are refused."""
    for number, said in (("1e999", "the number 1e999 is out of range"), ("NaN", "NaN is not a number")):
        raw = f'{{"model": "till", "state": [{number}], "questions": {json.dumps(NAMED)}}}'
        assert said in refused(decision_requests.parse_system_one, raw.encode())[1]


def test_members_that_clients_send_are_accepted() -> None:
    """A user name, prompt caching and null values are accepted."""
    asked = decisions(safety_identifier="u", prompt_cache_key="k", prompt_cache_options={"ttl": "30m"}, metadata=None)
    assert "as_mode" == asked.on_low_confidence
    assert "abstain" == decisions(edge_agent={"on_low_confidence": "abstain"}).on_low_confidence


def test_policy_can_be_set_by_a_header() -> None:
    """A member of the body takes precedence over the header; an unknown policy is refused by the header's name."""
    name, body = decision_requests.POLICY_HEADER, {"model": "till", "state": "x", "questions": NAMED}
    raw = json.dumps(body).encode()
    assert "abstain" == decision_requests.parse_system_one(raw, {name: "abstain"}).on_low_confidence
    own = json.dumps({**body, "edge_agent": {"on_low_confidence": "answer"}}).encode()
    assert "answer" == decision_requests.parse_system_one(own, {name: "abstain"}).on_low_confidence
    param, said = refused(decision_requests.parse_system_one, raw, {name: "guess"})
    assert (name, True) == (param, said.endswith('or "escalate"; it is "guess"'))


@pytest.mark.parametrize(
    ("labels", "label"),
    [(("no", "yes"), "yes"), (("True", "False"), "True"), (("yes", "no", "maybe"), None), (("yes", "true"), None)],
)
def test_predicate_requires_a_yes_and_a_no_label(labels: tuple[str, ...], label: str | None) -> None:
    """A predicate is answered by a task with one label for yes and one for no; other label sets refuse it."""
    assert label == decision_requests.truth_label(labels)
    asked = decisions(PREDICATE)
    if label:
        [matched] = decision_requests.match_questions(asked, task(*labels))
        assert label == matched.truth
    else:
        param, said = refused(decision_requests.match_questions, asked, task(*labels))
        assert ("questions[0]", True) == (param, said.startswith("a predicate needs a question with two labels"))


def test_boolean_choices_match_true_and_false_labels() -> None:
    """A choice keeps the type of its values."""
    choices = [{"value": True}, {"value": False}]
    [question] = decisions({**CHOICE, "choices": choices}).questions
    assert (True, False) == question.values
    asked = decisions({**CHOICE, "choices": choices})
    [matched] = decision_requests.match_questions(asked, task("false", "true"))
    assert ("true", "false") == matched.labels


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        (lambda: decisions({**CHOICE, "name": "urgent"}), "questions[0].name", "there is no question 'urgent'; 'till'"),
        (lambda: decisions(CHOICE, CHOICE), "questions[1]", "the request has 2 questions; 'till' answers one question"),
        (lambda: decisions(SCORE), "questions[0].type", "the labels of a choice have no order"),
        (
            lambda: decisions({**CHOICE, "choices": [{"value": "refund"}, {"value": "hours"}]}),
            "questions[0]",
            "it has no label 'hours'; 'till' answers one question, 'till': a choice of 'refund', 'price'",
        ),
        (lambda: system_one({"urgent": {"type": "noul", "instructions": "x"}}), "questions.urgent.name", "no question"),
        (lambda: system_one({"till": {"type": "noul", "instructions": "x"}}), "questions.till", "a predicate needs"),
    ],
)
def test_question_that_the_task_does_not_answer_is_refused(asked: Any, param: str, said: str) -> None:
    """The error names the question that the task answers."""
    where, message = refused(decision_requests.match_questions, asked(), task())
    assert param == where
    assert said in message


def test_missing_choice_is_named() -> None:
    """Fewer choices than labels are refused, because the probabilities would differ; so is a string beside a boolean of
    the same text."""
    many = task(*LABELS, "hours", *(f"label-{n}" for n in range(9)))
    _, said = refused(decision_requests.match_questions, decisions(), many)
    assert said.startswith(
        "the choices lack 'hours', 'label-0', 'label-1', 'label-2', 'label-3' and 5 more; 'till' answers one question"
    )
    twice = decisions({**CHOICE, "choices": [{"value": "true"}, {"value": True}]})
    _, said = refused(decision_requests.match_questions, twice, task("true", "false"))
    assert said.startswith("a boolean and a string name the same")


def test_extract_task_answers_no_questions() -> None:
    """An extract task refuses every question."""
    said = "'till' is of kind extract, and answers no questions"
    assert ("model", said) == refused(decision_requests.match_questions, decisions(), task(kind="EXTRACT"))


DESK_QUESTIONS = (
    TaskQuestion("intent", "CHOICE", "Which?", tuple(map(QuestionOption, LABELS)), 0.8),
    TaskQuestion("urgent", "PREDICATE", "It cannot wait.", (QuestionOption("no"), QuestionOption("yes"))),
    TaskQuestion("severity", "SCORE", "How bad?", tuple(map(QuestionOption, ("low", "high")))),
)


def desk(*, open_questions: bool = False) -> Task:
    """Return a decide task with a question of each type."""
    return replace(task(kind="DECIDE"), labels=(), questions=DESK_QUESTIONS, open_questions=open_questions)


def test_each_question_of_a_decide_task_is_found_by_its_name() -> None:
    """Questions are matched by name in any order and number; levels of a score may have labels or not."""
    asked = decisions({**SCORE, "name": "severity"}, {**PREDICATE, "name": "urgent"}, {**CHOICE, "name": "intent"})
    found = decision_requests.match_questions(asked, desk())
    assert ["severity", "urgent", "intent"] == [each.question.name for each in found]
    assert [("low", "high"), (), LABELS] == [each.labels for each in found]
    assert {"", "yes"} == {each.truth for each in found}
    unlabelled = system_one({"severity": {"type": "score", "criteria": ["not bad", "bad"]}})
    assert ("low", "high") == decision_requests.match_questions(unlabelled, desk())[0].labels


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (
            {**CHOICE, "name": "other"},
            "there is no question 'other'; 'till' answers 3 questions: 'intent' (choice), 'ur",
        ),
        (CHOICE, "a question has no name; 'till' answers 3 questions"),
        ({**CHOICE, "name": "severity"}, "question 'severity' is a score, not a choice"),
        ({**SCORE, "name": "intent"}, "the labels of a choice have no order"),
        ({**PREDICATE, "name": "severity"}, "a predicate needs a question with two labels"),
        ({**SCORE, "name": "severity", "levels": [{"label": "a"}] * 3}, "the request has 3 levels, and the question 2"),
        (
            {**SCORE, "name": "severity", "levels": [{"label": "high"}, {"label": "low"}]},
            "the levels must be 'low', 'h",
        ),
    ],
)
def test_unknown_question_of_a_decide_task_is_refused(question: Any, said: str) -> None:
    """The error lists the task's questions with their types."""
    _, message = refused(decision_requests.match_questions, decisions(question), desk())
    assert message.startswith(said)


@pytest.mark.parametrize("name", ["q1", "q0", "q-1"])
def test_chosen_name_of_a_question_is_unique(name: str) -> None:
    """A question without a name gets one that no other question of the request has."""
    predicate = {"type": "predicate", "instructions": "Is it urgent?"}
    request = decisions({**predicate, "name": name}, predicate, predicate)
    task_of_call = replace(desk(open_questions=True), questions=())
    found = [each.question.name for each in decision_requests.match_questions(request, task_of_call)]
    assert (name, 3) == (found[0], len(set(found)))


def test_open_questions_are_taken_from_the_call() -> None:
    """A task's own question is matched by name, an invalid name is replaced, and a bare statement is sufficient."""
    asked = decisions({**PREDICATE, "name": "urgent"}, {**CHOICE, "name": "What is it?"}, SCORE)
    own, choice, score = decision_requests.match_questions(asked, desk(open_questions=True))
    assert TaskQuestion("urgent") == own.question
    assert ("call-1", "CHOICE", "What is it about?") == (
        choice.question.name,
        choice.question.type,
        choice.question.instructions,
    )
    assert (QuestionOption("refund", "money back"), QuestionOption("price")) == choice.question.options
    assert ("call-2", ("low", "high")) == (score.question.name, score.labels)
    noul = system_one({"rude": {"type": "noul", "criteria": {"true": "It is rude."}}})
    [matched] = decision_requests.match_questions(noul, desk(open_questions=True))
    assert ("rude", "It is rude.", "yes") == (matched.question.name, matched.question.instructions, matched.truth)
    twice = decisions({**CHOICE, "name": "x", "choices": [{"value": "true"}, {"value": True}]})
    _, said = refused(decision_requests.match_questions, twice, desk(open_questions=True))
    assert said.startswith("a boolean and a string name the same label")


@pytest.mark.parametrize(
    ("questions", "more", "param", "said"),
    [
        ([], {}, "questions", "must have 1 to 400 questions; it has 0"),
        ([PREDICATE] * 401, {}, "questions", "must have 1 to 400 questions; it has 401"),
        ([{**CHOICE, "name": "a"}, {**PREDICATE, "name": "a"}], {}, "questions", "'a' is there twice"),
        ([{**CHOICE, "choices": CHOICES[:1]}], {}, "questions[0].choices", "must have 2 to 255 choices; it has 1"),
        (
            [{**CHOICE, "choices": [{"value": str(n)} for n in range(256)]}],
            {},
            "questions[0].choices",
            "must have 2 to 255 choices; it has 256",
        ),
        ([{**CHOICE, "choices": [CHOICES[0]] * 2}], {}, "questions[0].choices", "must be unique values"),
        ([{**CHOICE, "choices": [{"value": 1}, {"value": 2}]}], {}, "questions[0].choices[0].value", "a string"),
        (
            [{**SCORE, "levels": [{"label": "x"}] * 11}],
            {},
            "questions[0].levels",
            "must have 2 to 10 levels; it has 11",
        ),
        ([{**CHOICE, "instructions": " "}], {}, "questions[0].instructions", "must not be empty"),
        ([{"type": "choice", "choices": CHOICES}], {}, "questions[0].instructions", "is missing"),
        ([{**CHOICE, "type": "box"}], {}, "questions[0].type", 'can only be "predicate" or "choice" or "score"'),
        ([{**CHOICE, "weight": 2}], {}, "questions[0].weight", "is not supported here"),
        (
            [CHOICE],
            {"input": [{"role": "user", "content": "a"}] * 2},
            "input",
            "one message of the user; it holds 2: user, user",
        ),
        ([CHOICE], {"input": [{"role": "system", "content": "a"}]}, "input", "it holds 1: system"),
        (
            [CHOICE],
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
            'can only be "input_text" or "input_json"; it is "input_image"',
        ),
        ([CHOICE], {"input": [{"type": "function_call", "name": "x"}]}, "input", "it holds 1: function_call"),
        ([CHOICE], {"input": 7}, "input", "must be a string or a list of messages; it is a number"),
        ([CHOICE], {"stream": True}, "stream", "is not supported here"),
        ([CHOICE], {"edge_agent": {"on_low_confidence": "guess"}}, "edge_agent.on_low_confidence", "can only be"),
    ],
)
def test_invalid_decisions_request_is_refused_by_member(
    questions: list[Any], more: dict[str, Any], param: str, said: str
) -> None:
    """The error has the member, its value and the permitted ones."""
    body = {"model": "till", "input": "x", "questions": questions, **more}
    where, message = refused(decision_requests.parse_decisions, json.dumps(body).encode())
    assert param == where
    assert said in message


@pytest.mark.parametrize(
    ("questions", "more", "param", "said"),
    [
        ({}, {}, "questions", "must have 1 to 400 questions; it has 0"),
        ([], {}, "questions", "must be an object of named questions; it is a list"),
        ({"": NAMED["till"]}, {}, "questions", "must not be empty"),
        ({"a": {"type": "choice", "criteria": {"x": None}}}, {}, "questions.a.criteria", "2 to 255 choices; it has 1"),
        ({"a": {"type": "score", "criteria": ["x"] * 11}}, {}, "questions.a.criteria", "2 to 10 levels; it has 11"),
        (
            {"a": {"type": "choice", "criteria": {str(n): None for n in range(256)}}},
            {},
            "questions.a.criteria",
            "must have 2 to 255 choices; it has 256",
        ),
        ({str(n): NAMED["till"] for n in range(401)}, {}, "questions", "must have 1 to 400 questions; it has 401"),
        ({"a": {"type": "noul", "instructions": " "}}, {}, "questions.a.instructions", "must not be empty"),
        ({"a": {"type": "noul"}}, {}, "questions.a", "needs 'instructions', or an outcome described in 'criteria'"),
        ({"a": {"type": "box"}}, {}, "questions.a.type", 'can only be "noul" or "choice" or "score"; it is "box"'),
        (NAMED, {"state": {}}, "state", "must not be empty"),
        (NAMED, {"state": 7}, "state", "must be a string; it is a number"),
        (NAMED, {"state": deep(33)}, "state", "is nested in more than 32 levels of objects and lists"),
        (NAMED, {"state": [0] * 10_000}, "state", "has more than 10000 values"),
        (NAMED, {"state": ["é" * 2**17]}, "state", "has 262148 bytes as compact JSON; the limit is 262144"),
        (NAMED, {"state": {"a": "\ud800"}}, "state", "half of a surrogate pair"),
        (NAMED, {"state": None}, "state", "is missing"),
        (NAMED, {"assets": {}}, "assets", "is not supported here"),
    ],
)
def test_invalid_system_one_request_is_refused_by_member(
    questions: Any, more: dict[str, Any], param: str, said: str
) -> None:
    """The error has the member, its value and the permitted ones."""
    body = {"model": "till", "state": "x", "questions": questions, **more}
    where, message = refused(decision_requests.parse_system_one, json.dumps(body).encode())
    assert param == where
    assert said in message


def test_repeated_key_is_refused() -> None:
    """A repeated key in a JSON object is refused, because parsers differ in which value counts."""
    question = json.dumps(NAMED["till"])
    raw = f'{{"model": "till", "state": "x", "questions": {{"till": {question}, "till": {question}}}}}'
    assert 'the key "till" occurs twice in one object' in refused(decision_requests.parse_system_one, raw.encode())[1]


def test_repeated_key_is_found_in_linear_time() -> None:
    """A body of 4 MiB with a repeated key cannot block the console."""
    members = ",".join(f'"{number}":0' for number in range(300_000))
    problem = refused(decision_requests.parse_system_one, f'{{{members},"299999":1}}'.encode())[1]
    assert 'the body cannot be read as JSON: the key "299999" occurs twice in one object' == problem


def test_deeply_nested_state_is_refused() -> None:
    """A state that is nested 100,000 deep is refused before it is processed."""
    raw = b'{"state":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}"
    assert (
        "the body cannot be read as JSON: it is nested too deep" == refused(decision_requests.parse_system_one, raw)[1]
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(member=st.sampled_from(["model", "input", "state", "questions", "edge_agent"]), value=JSON)
def test_any_member_is_parsed_or_refused(member: str, value: Any) -> None:
    """No value of a member raises anything but GatewayError."""
    for parse, text in ((decision_requests.parse_decisions, "input"), (decision_requests.parse_system_one, "state")):
        questions: Any = [CHOICE] if text == "input" else NAMED
        body = {"model": "till", text: "x", "questions": questions, member: value}
        with contextlib.suppress(GatewayError):
            parse(json.dumps(body).encode())
