"""Typed questions over HTTP to a real daemon, from both official clients, LangChain and curl."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import zstandard
from langchain_core.messages import HumanMessage
from langchain_openai import decisions as langchain
from pydantic import SecretStr
from typesafe_sdk import (
    AsyncTypeSafeClient,
    Choice,
    Noul,
    RetryPolicy,
    Score,
    TypeSafeBadRequestError,
    TypeSafeClient,
)

from edge_agent.client import Classification, Decision, render_state
from tests.support.bundles import INTENTS, echo_bundle
from tests.support.gateway_site import GatewaySite, gateway_site

LABELS = ("refund", "price", "hours")
LEVELS = ("low", "middle", "high")
CHOICE: Any = {"type": "choice", "instructions": "What is it about?", "choices": [{"value": each} for each in LABELS]}
INTENT = Choice(instructions="What is it about?", criteria=dict.fromkeys(LABELS))
URGENT: Any = {"type": "predicate", "name": "urgent", "instructions": "It cannot wait."}
PAGE = Path(__file__).parents[2] / "docs" / "decisions-api.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaySite]:
    """A gateway with choice, yes/no, generate and decide tasks."""
    folder = tmp_path_factory.mktemp("decisions")
    bundles = (
        echo_bundle(folder / "intent", "pos-intent", labels=LABELS, version="1.2.0"),
        echo_bundle(folder / "urgent", "urgent", labels=("yes", "no")),
        echo_bundle(folder / "assistant", "assistant", "generate", weights=b"assistant"),
        echo_bundle(folder / "desk", "desk", "decide"),
        echo_bundle(folder / "open", "open", "decide", task={"open_questions": True}),
    )
    with gateway_site(folder / "site", *bundles) as running:
        yield running


@pytest.fixture
def client(site: GatewaySite) -> Iterator[openai.OpenAI]:
    with site.openai() as made:
        yield made


def typesafe(site: GatewaySite, **more: Any) -> TypeSafeClient:
    address = site.url.removesuffix("/v1")
    return TypeSafeClient(
        api_key=site.token, base_url=address, model="pos-intent", retry=RetryPolicy(max_retries=0), **more
    )


def ours(site: GatewaySite, task: str, text: str) -> Classification:
    with site.daemon.client() as own:
        [answer] = own.classify(task, [text])
    assert isinstance(answer, Classification)
    return answer


def test_choice_has_probability_of_each_label(site: GatewaySite, client: openai.OpenAI) -> None:
    """A choice has the probabilities of all labels in the question's order, and the extension `edge_agent` shows
    whether it is confident."""
    decision = client.decisions.create(model="pos-intent", input="what is the price", questions=[CHOICE])
    [answer] = decision.answers
    same = ours(site, "pos-intent", "what is the price")
    assert answer.type == "choice"
    assert ("price", dict(same.scores)["price"], None) == (answer.choice, answer.confidence, answer.name)
    assert [(label, dict(same.scores)[label]) for label in LABELS] == [
        (each.value, each.probability) for each in answer.probabilities
    ]
    told = answer.model_dump()["edge_agent"]
    assert (not same.below_threshold, same.threshold, same.bundle.digest) == (
        told["confident"],
        told["threshold"],
        told["bundle"]["digest"],
    )
    assert 36 == len(told["prediction_id"])
    assert (4, 0, 4) == (decision.usage.input_tokens, decision.usage.output_tokens, decision.usage.total_tokens)


async def test_asyncio_client_gets_predicate_probability(site: GatewaySite) -> None:
    """The asyncio client gets the probability of the label that means yes as the answer to a predicate."""
    async with site.openai_aio() as client:
        decision = await client.decisions.create(model="urgent", input="yes it burns", questions=[URGENT])
    [answer] = decision.answers
    assert answer.type == "predicate"
    assert ("urgent", dict(ours(site, "urgent", "yes it burns").scores)["yes"]) == (answer.name, answer.probability)


def test_withheld_answer_is_a_refusal(client: openai.OpenAI) -> None:
    """A withheld answer has the type refusal, so that a client cannot take it for an answer; the extension shows the
    route ABSTAINED."""
    asked = {"edge_agent": {"on_low_confidence": "abstain"}}
    decision = client.decisions.create(model="pos-intent", input="x", questions=[CHOICE], extra_body=asked)
    [answer] = decision.answers
    told = answer.model_dump()["edge_agent"]
    assert ("refusal", "ABSTAINED", False) == (answer.type, told["route"], told["confident"])


def test_system_one_returns_same_probabilities_as_grpc(site: GatewaySite) -> None:
    """A System One call returns the same choice and probabilities as gRPC, under the name of the question, with the
    token usage."""
    with typesafe(site) as client:
        result = client.system_one("what is the price", {"pos-intent": INTENT})
    same = ours(site, "pos-intent", "what is the price")
    answer = result.choices["pos-intent"]
    assert ("price", dict(same.scores)["price"], dict(same.scores)) == (
        answer.choice,
        answer.confidence,
        answer.probabilities,
    )
    assert ("pos-intent", 4, 0) == (result.model, result.usage.input_tokens, result.usage.output_tokens)


async def test_system_one_asyncio_gets_probability_of_yes(site: GatewaySite) -> None:
    """The asyncio client of System One gets the probability of yes."""
    address = site.url.removesuffix("/v1")
    async with AsyncTypeSafeClient(api_key=site.token, base_url=address, model="urgent") as client:
        result = await client.system_one("yes it burns", {"urgent": Noul(instructions="It cannot wait.")})
    assert dict(ours(site, "urgent", "yes it burns").scores)["yes"] == result.nouls["urgent"].noul


def test_system_one_client_drops_withheld_answer(site: GatewaySite) -> None:
    """The System One client library drops a withheld answer, because it does not know refusals."""
    with typesafe(site) as client:
        asked: Any = {"edge_agent": {"on_low_confidence": "abstain"}}
        result = client.system_one("x", {"pos-intent": INTENT}, extra_body=asked)
    assert {} == result.answers


def test_each_client_lists_the_models_in_its_own_format(site: GatewaySite, client: openai.OpenAI) -> None:
    """Both clients list the models in their own format; System One lists only tasks that answer questions."""
    with typesafe(site) as other:
        found = other.models.list()
    assert {"pos-intent", "urgent", "desk", "open"} == {each.name for each in found.models}
    assert "a choice of 3 labels; bundle version 1.2.0" in {each.description for each in found.models}
    assert {"pos-intent", "urgent", "assistant", "desk", "open"} == {each.id for each in client.models.list()}


DESK: list[Any] = [
    {"type": "score", "name": "severity", "instructions": "?", "levels": [{"label": each} for each in LEVELS]},
    {"type": "predicate", "name": "urgent", "instructions": "?"},
    {"type": "choice", "name": "intent", "instructions": "?", "choices": [{"value": each} for each in INTENTS]},
]


def test_several_questions_are_answered_in_one_call(site: GatewaySite, client: openai.OpenAI) -> None:
    """One request gets the answers of gRPC to several questions in the request's order, each with its own prediction
    id; a request can also have fewer questions than the task."""
    decision = client.decisions.create(model="desk", input="my kettle burns", questions=DESK)
    with site.daemon.client() as own:
        [same] = own.decide("desk", ["my kettle burns"])
    assert isinstance(same, Decision)
    severity, urgent, intent = decision.answers
    assert severity.type == "score"
    assert urgent.type == "predicate"
    assert intent.type == "choice"
    odds = {each.question: dict(each.probabilities) for each in same.answers}
    assert (same["severity"].score, list(odds["severity"].items())) == (
        severity.score,
        [(each.label, each.probability) for each in severity.probabilities],
    )
    assert odds["urgent"]["yes"] == urgent.probability
    assert (same["intent"].label, odds["intent"]) == (
        intent.choice,
        {str(each.value): each.probability for each in intent.probabilities},
    )
    assert 3 == len({each.model_dump()["edge_agent"]["prediction_id"] for each in decision.answers})
    [alone] = client.decisions.create(model="desk", input="my kettle burns", questions=DESK[1:2]).answers
    assert ("urgent", odds["urgent"]["yes"]) == (alone.name, alone.probability)


def test_system_one_answers_several_questions(site: GatewaySite) -> None:
    """System One returns the answers of gRPC to several questions; a score's levels need criteria but no labels."""
    questions: Any = {
        "severity": Score(instructions="?", criteria=["a question", "something is wrong", "somebody is harmed"]),
        "urgent": Noul(instructions="?"),
        "intent": Choice(criteria=dict.fromkeys(INTENTS)),
    }
    with typesafe(site) as client:
        result = client.system_one("my kettle burns", questions, model="desk")
    with site.daemon.client() as own:
        [same] = own.decide("desk", ["my kettle burns"])
    assert isinstance(same, Decision)
    score = result.scores["severity"]
    assert same["severity"].score == score.score
    assert {"low", "middle", "high"} == {label for label, _ in same["severity"].probabilities}
    assert dict(same["urgent"].probabilities)["yes"] == result.nouls["urgent"].noul
    assert same["intent"].label == result.choices["intent"].choice


def test_json_state_gets_same_answer_as_its_text(site: GatewaySite, client: openai.OpenAI) -> None:
    """A JSON state gets the same answer through both clients and as rendered text over gRPC; one nested in more than 32
    levels is refused with the limit."""
    state: Any = {"subject": "refund", "items": [{"name": "kettle", "broken": True}]}
    with site.daemon.client() as own:
        [same] = own.decide("desk", [render_state(state)])
    assert isinstance(same, Decision)
    intent = same["intent"].label, dict(same["intent"].probabilities)
    content: Any = [{"type": "input_json", "data": state}]
    [answer] = client.decisions.create(
        model="desk", input=[{"role": "user", "content": content}], questions=DESK[2:]
    ).answers
    assert answer.type == "choice"
    assert intent == (answer.choice, {str(each.value): each.probability for each in answer.probabilities})
    question: Any = {"intent": Choice(criteria=dict.fromkeys(INTENTS))}
    with typesafe(site) as other:
        found = other.system_one(state, question, model="desk").choices["intent"]
        assert intent == (found.choice, found.probabilities)
        for _ in range(32):
            state = [state]
        with pytest.raises(TypeSafeBadRequestError, match="'state' is nested in more than 32 levels"):
            other.system_one(state, question, model="desk")


@pytest.fixture
async def langchain_model(site: GatewaySite) -> AsyncIterator[Callable[..., langchain.OpenAIDecisions]]:
    """A factory of LangChain models on connections that close here; left to garbage collection they would close during
    another test."""
    with httpx2.Client() as here:
        async with httpx2.AsyncClient() as there:
            clients = {"http_client": here, "http_async_client": there}
            key = SecretStr(site.token)
            yield partial(langchain.OpenAIDecisions, model="desk", base_url=site.url, api_key=key, **clients)


@pytest.mark.filterwarnings("ignore:The class `OpenAIDecisions` is in beta")
async def test_langchain_decisions_class_works_unchanged(
    site: GatewaySite, langchain_model: Callable[..., langchain.OpenAIDecisions]
) -> None:
    """LangChain's OpenAIDecisions works with only the address and key changed, also with asyncio. Withheld answers are
    refusals, and several messages are refused with their roles."""
    model = langchain_model()
    questions: Any = {
        "severity": langchain.Score(instructions="How bad?", levels=list(LEVELS)),
        "urgent": langchain.Predicate(instructions="It cannot wait."),
        "intent": langchain.Choice(instructions="What is it about?", choices=dict.fromkeys(INTENTS)),
    }
    asked: Any = {"input": [HumanMessage("my kettle burns")], "questions": questions}
    found, later = model.invoke(asked), await model.ainvoke(asked)
    with site.daemon.client() as own:
        [same] = own.decide("desk", ["my kettle burns"])
    assert isinstance(same, Decision)
    for each in (found, later):
        assert same["severity"].score == each.scores["severity"].score
        assert dict(same["urgent"].probabilities)["yes"] == each.predicates["urgent"].probability
        assert dict(same["intent"].probabilities) == each.choices["intent"].probabilities
    strict = {"X-Edge-Agent-On-Low-Confidence": "abstain"}
    sure = langchain_model(default_headers=strict)
    told = {each.question for each in same.answers if not each.confident}
    assert told == sure.invoke(asked).refusals.keys()
    asked["input"] *= 2
    with pytest.raises(openai.BadRequestError, match="must be one message of the user; it holds 2: user, user"):
        model.invoke(asked)


def test_unknown_question_needs_bundle_with_open_questions(site: GatewaySite, client: openai.OpenAI) -> None:
    """A question that the bundle lacks is refused with the number of its questions, unless the bundle accepts open
    questions; their answers are never confident."""
    asked: Any = {**CHOICE, "name": "topic"}
    with pytest.raises(openai.BadRequestError, match="there is no question 'topic'; 'desk' answers 3 questions"):
        client.decisions.create(model="desk", input="x", questions=[asked])
    [answer] = client.decisions.create(model="open", input="the price", questions=[asked]).answers
    told = answer.model_dump()["edge_agent"]
    assert ("choice", "topic", False, False) == (answer.type, answer.name, told["calibrated"], told["confident"])


def test_wrong_question_error_names_existing_question(site: GatewaySite, client: openai.OpenAI) -> None:
    """Both clients show the gateway's message for an unknown question and for a score question to a choice task."""
    with pytest.raises(openai.BadRequestError, match="there is no question 'urgent'; 'pos-intent' answers one"):
        client.decisions.create(model="pos-intent", input="x", questions=[URGENT])
    with typesafe(site) as other, pytest.raises(TypeSafeBadRequestError, match="the labels of a choice have no order"):
        other.system_one("x", {"pos-intent": Score(instructions="How bad?", criteria=["low", "high"])})


def post(site: GatewaySite, path: str, body: bytes, **headers: str) -> httpx2.Response:
    fixed = {"authorization": f"Bearer {site.token}", "content-type": "application/json"}
    return httpx2.post(f"{site.url}/{path}", content=body, headers={**fixed, **headers}, timeout=30)


def test_system_one_error_has_detail(site: GatewaySite) -> None:
    """An error of the System One endpoint has the message in `detail`, as that API defines, in addition to the member
    `error`."""
    answered = post(site, "systemone", b'{"model": "nothing", "state": "x", "questions": {}}')
    told = answered.json()
    assert (400, told["error"]["message"]) == (answered.status_code, told["detail"])


def test_too_long_input_error_has_token_count_and_limit(site: GatewaySite) -> None:
    """The decisions and System One endpoints refuse a too long input, text or JSON, with its token count, the limit and
    the name of its member."""
    text, asked = "word " * 600, {"urgent": {"type": "noul", "instructions": "?"}}
    decisions = {"model": "desk", "input": text, "questions": DESK[1:2]}
    system_one = {"model": "desk", "state": {"message": text}, "questions": asked}
    for path, member, body in (("decisions", "input", decisions), ("systemone", "state", system_one)):
        error = post(site, path, json.dumps(body).encode()).json()["error"]
        assert ("INPUT_TOO_LONG", member) == (error["code"], error["param"])
        assert re.search(r"\d+ tokens.*512", error["message"]), error["message"]


def test_zstd_compressed_body_is_accepted_and_bounded(site: GatewaySite) -> None:
    """The gateway accepts a zstd request body, as the client library sends with a Python that has zstd. It refuses one
    that decompresses to 64 MiB, a truncated one, and other encodings."""
    question = {"pos-intent": {"type": "choice", "criteria": dict.fromkeys(LABELS)}}
    body = json.dumps({"model": "pos-intent", "state": "hours, please", "questions": question}).encode()
    packed = zstandard.compress(body)
    answered = post(site, "systemone", packed, **{"content-encoding": "zstd"})
    assert "hours" == answered.json()["answers"]["pos-intent"]["choice"]
    bomb = zstandard.compress(b" " * (64 * 2**20))
    for sent, encoding, status in ((bomb, "zstd", 413), (packed[:20], "zstd", 400), (b"x", "br", 400)):
        assert status == post(site, "systemone", sent, **{"content-encoding": encoding}).status_code


@pytest.mark.slow
def test_every_example_of_decisions_page_runs(site: GatewaySite) -> None:
    """The examples of docs/decisions-api.md run in order as printed; `edge-convert calibrate` runs in its own test."""
    page = PAGE.read_text(encoding="utf-8").replace("127.0.0.1:8390", site.console.address)
    environment = {**os.environ, "TOKEN": site.token}
    [shell, calibrates], programs = (
        re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) for language in ("sh", "python")
    )
    assert calibrates.startswith("edge-convert calibrate ")  # tests/process/test_question_calibration.py runs it
    assert 3 == len(programs)
    for command in (["bash", "-ec", shell], *([sys.executable, "-c", program] for program in programs)):
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        beta = "OpenAIDecisions" in command[-1]  # LangChain says that its class is one
        assert (0, beta) == (ended.returncode, "is in beta" in ended.stderr)
        assert beta or "" == ended.stderr
        assert "price" in ended.stdout
