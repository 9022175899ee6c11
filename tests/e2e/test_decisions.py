"""Typed questions over HTTP, asked by both official clients and by curl, in front of a real daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import zstandard
from typesafe_sdk import (
    AsyncTypeSafeClient,
    Choice,
    Noul,
    RetryPolicy,
    Score,
    TypeSafeBadRequestError,
    TypeSafeClient,
)

from edge_agent.client import Classification
from tests.support.bundles import echo_bundle
from tests.support.gateway_site import GatewaySite, gateway_site

LABELS = ("refund", "price", "hours")
CHOICE: Any = {"type": "choice", "instructions": "What is it about?", "choices": [{"value": each} for each in LABELS]}
INTENT = Choice(instructions="What is it about?", criteria=dict.fromkeys(LABELS))
URGENT: Any = {"type": "predicate", "name": "urgent", "instructions": "It cannot wait."}
PAGE = Path(__file__).parents[2] / "docs" / "decisions-api.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaySite]:
    """A task with three labels, one with yes and no, and one that writes."""
    folder = tmp_path_factory.mktemp("decisions")
    bundles = (
        echo_bundle(folder / "intent", "pos-intent", labels=LABELS, version="1.2.0"),
        echo_bundle(folder / "urgent", "urgent", labels=("yes", "no")),
        echo_bundle(folder / "assistant", "assistant", "generate", weights=b"assistant"),
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


def test_a_choice_has_the_probabilities_of_the_labels(site: GatewaySite, client: openai.OpenAI) -> None:
    """In the order of the question; whether the answer is confident stands beside it."""
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


async def test_the_asynchronous_client_asks_a_predicate(site: GatewaySite) -> None:
    """The probability of the label that means yes."""
    async with site.openai_aio() as client:
        decision = await client.decisions.create(model="urgent", input="yes it burns", questions=[URGENT])
    [answer] = decision.answers
    assert answer.type == "predicate"
    assert ("urgent", dict(ours(site, "urgent", "yes it burns").scores)["yes"]) == (answer.name, answer.probability)


def test_an_answer_that_is_withheld_is_a_refusal(client: openai.OpenAI) -> None:
    """So that nobody takes it for an answer; why stands beside it."""
    asked = {"edge_agent": {"on_low_confidence": "abstain"}}
    decision = client.decisions.create(model="pos-intent", input="x", questions=[CHOICE], extra_body=asked)
    [answer] = decision.answers
    told = answer.model_dump()["edge_agent"]
    assert ("refusal", "ABSTAINED", False) == (answer.type, told["route"], told["confident"])


def test_system_one_gets_the_same_probabilities(site: GatewaySite) -> None:
    """By the names of its questions."""
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


async def test_system_one_asks_a_yes_or_no_question_for_asyncio(site: GatewaySite) -> None:
    """The probability of yes."""
    address = site.url.removesuffix("/v1")
    async with AsyncTypeSafeClient(api_key=site.token, base_url=address, model="urgent") as client:
        result = await client.system_one("yes it burns", {"urgent": Noul(instructions="It cannot wait.")})
    assert dict(ours(site, "urgent", "yes it burns").scores)["yes"] == result.nouls["urgent"].noul


def test_system_one_leaves_out_an_answer_that_is_withheld(site: GatewaySite) -> None:
    """Its library drops what it does not know, a refusal, and keeps the answers to other questions."""
    with typesafe(site) as client:
        asked: Any = {"edge_agent": {"on_low_confidence": "abstain"}}
        result = client.system_one("x", {"pos-intent": INTENT}, extra_body=asked)
    assert {} == result.answers


def test_each_client_lists_the_models_in_its_own_format(site: GatewaySite, client: openai.OpenAI) -> None:
    """To System One only what answers questions."""
    with typesafe(site) as other:
        found = other.models.list()
    assert {"pos-intent", "urgent"} == {each.name for each in found.models}
    assert "a choice of 3 labels; bundle version 1.2.0" in {each.description for each in found.models}
    assert {"pos-intent", "urgent", "assistant"} == {each.id for each in client.models.list()}


def test_another_question_is_refused_with_the_one_that_there_is(site: GatewaySite, client: openai.OpenAI) -> None:
    """Both clients show the sentence."""
    with pytest.raises(openai.BadRequestError, match="there is no question 'urgent'; 'pos-intent' answers one"):
        client.decisions.create(model="pos-intent", input="x", questions=[URGENT])
    with typesafe(site) as other, pytest.raises(TypeSafeBadRequestError, match="the labels of a task have no order"):
        other.system_one("x", {"pos-intent": Score(instructions="How bad?", criteria=["low", "high"])})


def post(site: GatewaySite, path: str, body: bytes, **headers: str) -> httpx2.Response:
    fixed = {"authorization": f"Bearer {site.token}", "content-type": "application/json"}
    return httpx2.post(f"{site.url}/{path}", content=body, headers={**fixed, **headers}, timeout=30)


def test_an_error_of_system_one_has_its_detail(site: GatewaySite) -> None:
    """Where that API has it; the member `error` stays."""
    answered = post(site, "systemone", b'{"model": "nothing", "state": "x", "questions": {}}')
    told = answered.json()
    assert (400, told["error"]["message"]) == (answered.status_code, told["detail"])


def test_a_compressed_body_is_read(site: GatewaySite) -> None:
    """As the library sends it under a Python that has zstd; bounded, whatever it decompresses to."""
    question = {"pos-intent": {"type": "choice", "criteria": dict.fromkeys(LABELS)}}
    body = json.dumps({"model": "pos-intent", "state": "hours, please", "questions": question}).encode()
    packed = zstandard.compress(body)
    answered = post(site, "systemone", packed, **{"content-encoding": "zstd"})
    assert "hours" == answered.json()["answers"]["pos-intent"]["choice"]
    bomb = zstandard.compress(b" " * (64 * 2**20))
    for sent, encoding, status in ((bomb, "zstd", 413), (packed[:20], "zstd", 400), (b"x", "br", 400)):
        assert status == post(site, "systemone", sent, **{"content-encoding": encoding}).status_code


def test_every_example_of_the_page_runs(site: GatewaySite) -> None:
    """One after the other, as they stand there, against this gateway."""
    page = PAGE.read_text(encoding="utf-8").replace("127.0.0.1:8390", site.console.address)
    environment = {**os.environ, "TOKEN": site.token}
    [shell], [first, second] = (
        re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) for language in ("sh", "python")
    )
    for command in (["bash", "-ec", shell], *([sys.executable, "-c", program] for program in (first, second))):
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (0, "") == (ended.returncode, ended.stderr)
        assert "price" in ended.stdout
