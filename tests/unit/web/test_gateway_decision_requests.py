"""Decision requests of both APIs: what is read, what a task answers, and what is refused by its name."""

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
    """Return so many objects in each other."""
    value: Any = "x"
    for _ in range(levels):
        value = {"a": value}
    return value


def refused(call: Any, *arguments: Any, **more: Any) -> tuple[str, str]:
    with pytest.raises(GatewayError) as caught:
        call(*arguments, **more)
    return caught.value.param, caught.value.message


def test_both_apis_ask_the_same() -> None:
    """A question has a kind, a name and values, wherever it comes from."""
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
def test_the_input_is_a_text_or_the_one_message_of_the_user(given: Any) -> None:
    """However it is written."""
    assert "my money" == decisions(input=given).text


def test_a_json_state_is_one_text_on_every_path() -> None:
    """As a state, as a part of a message, and in any order of its members; each part of a message has its line."""
    state = {"subject": "Grüße", "items": [{"n": 1, "left": None}, 1.5, True]}
    text = '{"items":[{"left":null,"n":1},1.5,true],"subject":"Grüße"}'
    assert text == system_one(state=state).text == render_state(state)
    assert text == system_one(state=dict(reversed(state.items()))).text
    parts = [{"type": "input_json", "data": state}, {"type": "input_text", "text": "and?"}]
    assert f"{text}\nand?" == decisions(input=[{"role": "user", "content": parts}]).text
    assert 32 == system_one(state=deep(32)).text.count("{")
    [question] = decisions({**PREDICATE, "instructions": [{"type": "input_json", "data": ["urgent"]}]}).questions
    assert '["urgent"]' == question.instructions


def test_a_number_of_a_state_that_is_not_finite_is_refused() -> None:
    """A literal can be larger than any float; the word NaN is not JSON at all."""
    for number, said in (("1e999", "the number 1e999 is out of range"), ("NaN", "NaN is not a number")):
        raw = f'{{"model": "till", "state": [{number}], "questions": {json.dumps(NAMED)}}}'
        assert said in refused(decision_requests.parse_system_one, raw.encode())[1]


def test_members_that_clients_send_are_let_by() -> None:
    """A name for the user, prompt caching, and null for what is left out."""
    asked = decisions(safety_identifier="u", prompt_cache_key="k", prompt_cache_options={"ttl": "30m"}, metadata=None)
    assert "as_mode" == asked.on_low_confidence
    assert "abstain" == decisions(edge_agent={"on_low_confidence": "abstain"}).on_low_confidence


def test_a_header_gives_the_policy_of_a_client_that_adds_no_member() -> None:
    """The member counts where both are there; a word that is no policy is refused by the name of the header."""
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
def test_a_predicate_is_answered_by_two_labels(labels: tuple[str, ...], label: str | None) -> None:
    """One that means yes and one that means no; any other label set answers none."""
    assert label == decision_requests.truth_label(labels)
    asked = decisions(PREDICATE)
    if label:
        [matched] = decision_requests.match_questions(asked, task(*labels))
        assert label == matched.truth
    else:
        param, said = refused(decision_requests.match_questions, asked, task(*labels))
        assert ("questions[0]", True) == (param, said.startswith("a predicate needs a question with two labels"))


def test_booleans_name_the_labels_true_and_false() -> None:
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
def test_a_question_that_the_task_does_not_answer_is_refused(asked: Any, param: str, said: str) -> None:
    """With the question that it does answer, so that the caller can correct the request."""
    where, message = refused(decision_requests.match_questions, asked(), task())
    assert param == where
    assert said in message


def test_a_label_that_the_choices_lack_is_named() -> None:
    """Fewer choices would need other probabilities; and so would a string beside the boolean of the same text."""
    many = task(*LABELS, "hours", *(f"label-{n}" for n in range(9)))
    _, said = refused(decision_requests.match_questions, decisions(), many)
    assert said.startswith(
        "the choices lack 'hours', 'label-0', 'label-1', 'label-2', 'label-3' and 5 more; 'till' answers one question"
    )
    twice = decisions({**CHOICE, "choices": [{"value": "true"}, {"value": True}]})
    _, said = refused(decision_requests.match_questions, twice, task("true", "false"))
    assert said.startswith("a boolean and a string name the same")


def test_a_task_of_another_kind_answers_no_questions() -> None:
    """Whatever is asked."""
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
    """In any order and number; of a score both forms of the levels count, with labels and without."""
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
def test_a_question_that_a_decide_task_does_not_have_is_refused_with_all_that_it_has(question: Any, said: str) -> None:
    """With their types."""
    _, message = refused(decision_requests.match_questions, decisions(question), desk())
    assert message.startswith(said)


@pytest.mark.parametrize("name", ["q1", "q0", "q-1"])
def test_a_question_without_a_name_takes_none_that_another_has(name: str) -> None:
    """Names that callers leave out are chosen here, and whatever the others are called each question has its own."""
    predicate = {"type": "predicate", "instructions": "Is it urgent?"}
    request = decisions({**predicate, "name": name}, predicate, predicate)
    task_of_call = replace(desk(open_questions=True), questions=())
    found = [each.question.name for each in decision_requests.match_questions(request, task_of_call)]
    assert (name, 3) == (found[0], len(set(found)))


def test_a_task_with_open_questions_takes_others_from_the_call() -> None:
    """Its own are named alone; a name that the daemon does not take is replaced, and a bare statement is enough."""
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
def test_a_bad_request_of_openai_is_refused_by_its_member(
    questions: list[Any], more: dict[str, Any], param: str, said: str
) -> None:
    """With what it can be, and what it is."""
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
def test_a_bad_request_of_system_one_is_refused_by_its_member(
    questions: Any, more: dict[str, Any], param: str, said: str
) -> None:
    """With what it can be, and what it is."""
    body = {"model": "till", "state": "x", "questions": questions, **more}
    where, message = refused(decision_requests.parse_system_one, json.dumps(body).encode())
    assert param == where
    assert said in message


def test_a_name_that_stands_twice_is_refused() -> None:
    """JSON leaves open which of the two would count, and parsers differ."""
    question = json.dumps(NAMED["till"])
    raw = f'{{"model": "till", "state": "x", "questions": {{"till": {question}, "till": {question}}}}}'
    assert 'the key "till" occurs twice in one object' in refused(decision_requests.parse_system_one, raw.encode())[1]


def test_a_name_that_stands_twice_among_very_many_is_found_at_once() -> None:
    """The search takes steps in proportion to the members: a body of 4 MiB cannot stop the console for hours."""
    members = ",".join(f'"{number}":0' for number in range(300_000))
    problem = refused(decision_requests.parse_system_one, f'{{{members},"299999":1}}'.encode())[1]
    assert 'the body cannot be read as JSON: the key "299999" occurs twice in one object' == problem


def test_a_state_that_is_nested_without_end_is_refused() -> None:
    """Before anything goes through it."""
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
def test_whatever_a_member_is_it_is_read_or_refused(member: str, value: Any) -> None:
    """Nothing else is raised."""
    for parse, text in ((decision_requests.parse_decisions, "input"), (decision_requests.parse_system_one, "state")):
        questions: Any = [CHOICE] if text == "input" else NAMED
        body = {"model": "till", text: "x", "questions": questions, member: value}
        with contextlib.suppress(GatewayError):
            parse(json.dumps(body).encode())
