"""The HTTP gateway in front of a real daemon, called through the official `openai` library."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

from edge_agent.client import Classification, Tls
from tests.support.bundles import digest_of, echo_bundle, smollm2_bundle
from tests.support.eventually import eventually_sync
from tests.support.gateway_site import GatewaySite, gateway_site
from tests.support.tls_site import TlsSite
from tests.support.web_console import RunningConsole

LABELS = ("refund", "price", "hours")
LIMITS = {"limits": {"input_tokens_max": 100, "output_tokens_max": 64, "inputs_max": 4}}
PAGE = Path(__file__).parents[2] / "docs" / "gateway.md"
PAGE_SECONDS_MAX = 60


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaySite]:
    """A gateway with one task of each kind."""
    folder = tmp_path_factory.mktemp("gateway")
    bundles = (
        echo_bundle(folder / "intent", "pos-intent", labels=LABELS, version="1.2.0", task=LIMITS),
        echo_bundle(folder / "fields", "pos-fields", "extract"),
        echo_bundle(folder / "assistant", "assistant", "generate", task=LIMITS, weights=b"assistant"),
        echo_bundle(folder / "search", "product-search", "embed"),
    )
    with gateway_site(folder / "site", *bundles) as running:
        yield running


@pytest.fixture
def client(site: GatewaySite) -> Iterator[openai.OpenAI]:
    with site.openai() as made:
        yield made


def test_chat_completion_returns_label_as_grpc_does(site: GatewaySite, client: openai.OpenAI) -> None:
    """A chat completion returns the label that gRPC returns; its confidence, scores and bundle are in `edge_agent`."""
    answer = client.chat.completions.create(model="pos-intent", messages=user("what is the price"))
    with site.daemon.client() as own:
        [same] = own.classify("pos-intent", ["what is the price"])
    assert isinstance(same, Classification)
    told = answer.model_dump()["edge_agent"]
    assert ("price", "stop", "pos-intent") == (
        answer.choices[0].message.content,
        answer.choices[0].finish_reason,
        answer.model,
    )
    assert (same.confidence, same.threshold, same.below_threshold) == (
        told["confidence"],
        told["threshold"],
        told["below_threshold"],
    )
    assert [{"label": label, "score": score} for label, score in same.scores] == told["scores"]
    assert (same.bundle.digest, "1.2.0") == (answer.system_fingerprint, told["bundle"]["version"])
    assert (4, 0, 4) == (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens)
    assert 36 == len(told["prediction_id"])


def test_withheld_label_is_a_refusal(client: openai.OpenAI) -> None:
    """A withheld label is a refusal without content, so that a client cannot take it for a label."""
    answer = client.chat.completions.create(
        model="pos-intent", messages=user("x"), extra_body={"edge_agent": {"on_low_confidence": "abstain", "top_k": 1}}
    )
    message, told = answer.choices[0].message, answer.model_dump()["edge_agent"]
    assert (None, "ABSTAINED", 1) == (message.content, told["route"], len(told["scores"]))
    assert "no answer" in (message.refusal or "")


def test_extract_task_returns_json(client: openai.OpenAI) -> None:
    """A chat completion of an extract task returns the JSON record, with or without `response_format`."""
    for more in ({}, {"response_format": {"type": "json_object"}}):
        answer = client.chat.completions.create(model="pos-fields", messages=user("12 lamps"), **more)
        assert '{"product": [], "price": [], "O": ["12"]}' == answer.choices[0].message.content


def test_text_is_returned_whole_with_usage(client: openai.OpenAI) -> None:
    """A text without streaming is returned whole, cut at max_tokens, with the daemon's token counts."""
    text = "one two three four"
    whole = client.chat.completions.create(model="assistant", messages=user(text), temperature=0, seed=1)
    assert (text, "stop") == (whole.choices[0].message.content, whole.choices[0].finish_reason)
    cut = client.chat.completions.create(model="assistant", messages=user(text), max_tokens=2)
    assert ("one two", "length") == (cut.choices[0].message.content, cut.choices[0].finish_reason)
    assert (4, 2, 6) == (cut.usage.prompt_tokens, cut.usage.completion_tokens, cut.usage.total_tokens)


async def test_text_is_streamed_in_chunks(site: GatewaySite) -> None:
    """A streamed text arrives in chunks; the last has the finish reason, followed by the requested usage."""
    async with site.openai_aio() as client:
        stream = await client.chat.completions.create(
            model="assistant", messages=user("one two three"), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert ["", "one", " two", " three", None] == pieces
    assert "assistant" == chunks[0].choices[0].delta.role
    assert "stop" == chunks[-2].choices[0].finish_reason
    assert 36 == len(chunks[-2].model_dump()["edge_agent"]["prediction_id"])
    assert (3, 3) == (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens)
    assert 1 == len({chunk.id for chunk in chunks})


def test_a_label_can_be_streamed(client: openai.OpenAI) -> None:
    """A streamed label arrives as one chunk, for programs that only support streaming."""
    chunks = list(client.chat.completions.create(model="pos-intent", messages=user("a refund"), stream=True))
    assert ["refund", None] == [chunk.choices[0].delta.content for chunk in chunks]
    assert "refund" == chunks[-1].model_dump()["edge_agent"]["label"]


def test_closed_stream_stops_generation(site: GatewaySite, client: openai.OpenAI) -> None:
    """When a client closes its stream after the first of 60 words, one per second, the engine stops the generation."""
    words = user(" ".join(["!slow", "1000", *["word"] * 58]))
    stream = client.chat.completions.create(model="assistant", messages=words, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    assert [1] == _pending(site)
    stream.close()
    eventually_sync(lambda: _pending(site) == [0])


def test_client_timeout_stops_generation(site: GatewaySite) -> None:
    """After the library's timeout on a text without streaming, the engine stops the generation."""
    words = user(" ".join(["!slow", "1000", *["word"] * 58]))
    with site.openai(timeout=0.4) as hurried, pytest.raises((openai.APITimeoutError, openai.InternalServerError)):
        hurried.chat.completions.create(model="assistant", messages=words)
    eventually_sync(lambda: _pending(site) == [0], 30.0)


def _pending(site: GatewaySite) -> list[int]:
    with site.daemon.admin() as admin:
        return [engine.pending for engine in admin.status().engines if "assistant" in engine.tasks]


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings_match_grpc(site: GatewaySite, client: openai.OpenAI, encoding: Any) -> None:
    """Embeddings are those of gRPC, as numbers or in base64, the library's default; `dimensions` is supported."""
    more = {} if encoding is None else {"encoding_format": encoding}
    found = client.embeddings.create(model="product-search", input=["a lamp", "a kettle"], **more)
    with site.daemon.client() as own:
        same = [each.values for each in own.embed("product-search", ["a lamp", "a kettle"])]
    assert (4, [0, 1]) == (found.usage.prompt_tokens, [each.index for each in found.data])
    if encoding != "base64":
        assert pytest.approx(same[1]) == found.data[1].embedding
    assert 8 == len(client.embeddings.create(model="product-search", input="x", dimensions=8).data[0].embedding)


def test_models_list_has_all_tasks(site: GatewaySite, client: openai.OpenAI) -> None:
    """The model list has every task, and each model has the daemon's description of its task."""
    assert ["assistant", "pos-fields", "pos-intent", "product-search"] == [model.id for model in client.models.list()]
    told = client.models.retrieve("pos-intent").model_dump()["edge_agent"]
    assert ("CLASSIFY", list(LABELS), 4, True) == tuple(told[key] for key in ("kind", "labels", "inputs_max", "ready"))


def test_classify_endpoint_returns_answer_or_error_per_text(client: openai.OpenAI) -> None:
    """The endpoint `tasks/NAME:classify` returns an answer or an error for each text, as gRPC does."""
    texts = ["a refund, please", "", "the price " * 60]
    found: Any = client.post("/tasks/pos-intent:classify", body={"texts": texts}, cast_to=object)
    first, empty, long = found["results"]
    assert ("refund", False) == (first["label"], first["route"] == "ABSTAINED")
    assert ["INPUT_EMPTY", "INPUT_TOO_LONG"] == [each["error"]["code"] for each in (empty, long)]
    assert "limit is 100" in long["error"]["message"]


def test_idempotency_key_returns_same_prediction(client: openai.OpenAI) -> None:
    """Two requests with the same Idempotency-Key get the same prediction."""
    headers = {"Idempotency-Key": "till-3/1"}
    found = [
        client.chat.completions.create(model="pos-intent", messages=user("a refund"), extra_headers=headers)
        for _ in range(2)
    ]
    assert 1 == len({each.model_dump()["edge_agent"]["prediction_id"] for each in found})
    assert ["till-3/1"] * 2 == [each._request_id for each in found]


def test_wrong_token_is_refused(site: GatewaySite) -> None:
    """A wrong token is refused with an error in OpenAI's format, which the library shows."""
    with site.openai(api_key="guessed") as stranger, pytest.raises(openai.AuthenticationError, match="token"):
        stranger.models.list()


def test_client_certificate_replaces_token(site: GatewaySite, tmp_path: Path) -> None:
    """Over TLS a client certificate with the role infer replaces the token; one without it is refused with the name of
    the role."""
    tls = TlsSite(tmp_path / "tls")
    files = {"certificate_file": tls.certificate, "key_file": tls.key, "client_ca_file": tls.ca}
    with RunningConsole(site.daemon, **{key: str(path) for key, path in files.items()}) as console:
        over_tls = GatewaySite(site.daemon, console)

        def labelled(given: Tls) -> str | None:
            context = ssl.create_default_context(cafile=str(given.ca))
            context.load_cert_chain(str(given.certificate), str(given.key))
            with over_tls.openai(api_key="none", http_client=httpx2.Client(verify=context)) as client:
                answer = client.chat.completions.create(model="pos-intent", messages=user("a refund"))
            return answer.choices[0].message.content

        console.context = ssl.create_default_context(cafile=str(tls.ca))
        assert "refund" == labelled(tls.client("till-3", "infer"))
        with pytest.raises(openai.PermissionDeniedError, match="needs the role infer"):
            labelled(tls.client("anna", "feedback"))


@pytest.mark.slow
def test_every_example_of_gateway_page_runs(site: GatewaySite) -> None:
    """The examples of docs/gateway.md run in order as printed, and print the documented output."""
    page = PAGE.read_text(encoding="utf-8").replace("127.0.0.1:8390", site.console.address)
    environment = {**os.environ, "TOKEN": site.token}
    labels, stream = [
        _ran(["bash", "-ec", snippet], environment) for snippet in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    ]
    assert 2 == labels.count('"prediction_id"')
    assert stream.endswith("data: [DONE]\n\n")
    program = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    said = _ran([sys.executable, "-W", "error", "-c", program], environment)
    assert "Write a sign: we close at six today" in said
    assert "2 8\nREQUEST_INVALID top_p 'top_p' can only be 1; it is 0.5." in said


def _ran(command: list[str], environment: dict[str, str]) -> str:
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PAGE_SECONDS_MAX, check=False
    )
    assert (0, "") == (ended.returncode, ended.stderr), ended.stderr
    return ended.stdout


@pytest.mark.release
def test_real_model_works_through_openai_library(tmp_path: Path) -> None:
    """With SmolLM2 the library gets a streamed text, log probabilities, a label, and a record that `parse` reads into
    its class."""

    class Record(BaseModel):
        product: str
        count: int | None
        wish: str
        day: str | None

    bundles = [smollm2_bundle(tmp_path / kind, kind) for kind in ("generate", "classify", "extract")]
    with gateway_site(tmp_path / "site", *bundles) as site, site.openai() as client:
        stream = client.chat.completions.create(
            model="assistant", messages=user("Say hello."), stream=True, temperature=0, max_tokens=12
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream).strip()
        likely = client.chat.completions.create(
            model="assistant", messages=user("Say hello."), logprobs=True, top_logprobs=2, temperature=0, max_tokens=4
        )
        [first, *_] = likely.choices[0].logprobs.content
        assert (2, first.token) == (len(first.top_logprobs), first.top_logprobs[0].token)
        label = client.chat.completions.create(model="pos-intent", messages=user("I want my money back"))
        assert (digest_of(bundles[1]), True) == (label.system_fingerprint, bool(label.choices[0].message.content))
        found = client.chat.completions.parse(
            model="pos-fields", messages=user("Two lamps, I want my money back"), response_format=Record
        )
        assert isinstance(found.choices[0].message.parsed, Record)
