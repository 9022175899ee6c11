"""The gateway over HTTP in front of a scripted daemon: refusals, limits, deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from tests.support.eventually import eventually
from tests.support.fake_daemon import FakeDaemon
from tests.support.gateway_server import serving

ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "hello there"}]}


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    with FakeDaemon("127.0.0.1:0") as running:
        yield running


@pytest.fixture
async def url(daemon: FakeDaemon) -> AsyncIterator[str]:
    async with serving(daemon.targets[0], calls_max=2) as base_url:
        yield base_url


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
async def raw(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=url) as made:
        yield made


async def test_error_has_the_form_of_openai_and_our_reason(client: AsyncOpenAI) -> None:
    """The OpenAI library raises the class of the status and reads message, code and parameter from the body."""
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="unknown", **ASKED)
    assert ("TASK_UNKNOWN", "model") == (caught.value.code, caught.value.param)
    assert "no task 'unknown'; installed: pos-intent. the remedy for TASK_UNKNOWN" in caught.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="pos-intent", **ASKED, top_p=0.5)
    assert ("REQUEST_INVALID", "top_p") == (refused.value.code, refused.value.param)


async def test_library_retries_after_the_given_delay(client: AsyncOpenAI, daemon: FakeDaemon) -> None:
    """A full queue is status 429 with the delay of RetryInfo in the header that the library honours."""
    daemon.inference.refusals = 1
    with pytest.raises(openai.RateLimitError) as refused:
        await client.embeddings.create(model="product-search", input="hello")
    assert "20" == refused.value.response.headers["retry-after-ms"]
    daemon.inference.requests.clear()
    daemon.inference.refusals = 2
    patient = client.with_options(max_retries=2)
    answer = await patient.embeddings.create(
        model="product-search", input="hello", extra_headers={"Idempotency-Key": "k-1"}
    )
    assert [0.5, -0.25] == answer.data[0].embedding
    assert ["k-1"] * 3 == [request.request_id for request in daemon.inference.requests]


async def test_expired_deadline_is_not_retried(client: AsyncOpenAI, daemon: FakeDaemon) -> None:
    """The library, which retries any 5xx, is told not to retry an expired deadline."""
    with pytest.raises(openai.InternalServerError) as caught:
        await client.with_options(max_retries=3).embeddings.create(
            model="stuck", input="hello", extra_headers={"X-Request-Timeout": "0.2"}
        )
    assert (504, "DEADLINE_EXPIRED") == (caught.value.status_code, caught.value.code)
    assert 1 >= len(daemon.inference.requests)  # none where a busy machine took all the time before the call


async def test_busy_daemon_returns_the_retry_delay(raw: httpx2.AsyncClient) -> None:
    """The response is 429 with the delay rounded up to seconds, and exact in retry-after-ms."""
    answer = await raw.post("/embeddings", json={"model": "busy", "input": ["hello"]})
    given = {name: answer.headers[name] for name in ("retry-after", "retry-after-ms", "x-should-retry")}
    assert (429, {"retry-after": "2", "retry-after-ms": "1500", "x-should-retry": "true"}) == (
        answer.status_code,
        given,
    )
    assert "64 inputs wait; the limit is 64. Try again in 1.5 s." == answer.json()["error"]["message"]


async def test_timeout_of_the_library_reaches_the_daemon(url: str, daemon: FakeDaemon) -> None:
    """If the library's timeout passes, the daemon's call is ended too."""
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=0.3) as hurried:
        with pytest.raises((openai.APITimeoutError, openai.InternalServerError)):
            await hurried.embeddings.create(model="stuck", input="hello")
    # No call came where a busy machine took all the time before it.
    await eventually(lambda: daemon.inference.stream_ended.is_set() or not daemon.inference.requests)


async def test_body_that_arrives_too_late_returns_504(url: str) -> None:
    """504, as wherever else a deadline passes."""
    address = httpx2.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nX-Request-Timeout: 0.05\r\nContent-Length: 9\r\n\r\n"
    writer.write(head.encode())
    answer = await reader.readuntil(b"}}")
    writer.close()
    assert b"HTTP/1.1 504 " in answer
    assert b"DEADLINE_EXPIRED" in answer


async def test_call_is_cancelled_when_its_caller_leaves(client: AsyncOpenAI, daemon: FakeDaemon) -> None:
    """The daemon's call ends when the HTTP client disconnects, for a response and for a stream."""
    waiting = asyncio.create_task(client.embeddings.create(model="stuck", input="hello"))
    await eventually(lambda: bool(daemon.inference.requests))
    waiting.cancel()
    await eventually(daemon.inference.stream_ended.is_set)
    daemon.inference.stream_ended.clear()
    async with await client.chat.completions.create(model="endless", **ASKED, stream=True) as stream:
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
    await eventually(daemon.inference.stream_ended.is_set)


async def test_broken_stream_ends_with_an_error_event(client: AsyncOpenAI) -> None:
    """Earlier pieces arrive, and the library raises with our reason."""
    pieces: list[str | None] = []

    async def read() -> None:
        async for chunk in await client.chat.completions.create(model="breaks", **ASKED, stream=True):
            pieces.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError, match="the engine ended") as caught:
        await read()
    assert (["", "Hello"], "STREAM_BROKEN") == (pieces, caught.value.code)


async def test_stream_without_a_final_message_is_an_error(client: AsyncOpenAI, daemon: FakeDaemon) -> None:
    """A truncated text is not returned as a complete one."""
    daemon.inference.stream_ended.set()
    with pytest.raises(openai.InternalServerError, match="ended without a final message") as caught:
        await client.chat.completions.create(model="endless", **ASKED)
    assert (503, "STREAM_BROKEN") == (caught.value.status_code, caught.value.code)


async def test_failure_before_the_first_piece_is_an_http_error(client: AsyncOpenAI) -> None:
    """The library can retry a stream that failed before its first piece."""
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.create(model="busy", **ASKED, stream=True)


@pytest.mark.slow
async def test_calls_in_progress_are_limited(client: AsyncOpenAI, daemon: FakeDaemon) -> None:
    """A call beyond the limit is refused with a delay, and an ended call frees its place."""
    streams = [await client.chat.completions.create(model="endless", **ASKED, stream=True) for _ in range(2)]
    with pytest.raises(openai.RateLimitError) as caught:
        await client.models.list()
    assert ("QUEUE_FULL", "1") == (caught.value.code, caught.value.response.headers["retry-after"])
    for stream in streams:
        await stream.close()
    models = await client.with_options(max_retries=3).models.list()
    assert ["assistant", "pos-intent", "product-search"] == [model.id for model in models.data]


async def test_failed_input_of_a_batch_is_named(client: AsyncOpenAI, raw: httpx2.AsyncClient) -> None:
    """Embeddings fail as a whole and name the input; classifications have an error in place of the failed input."""
    with pytest.raises(openai.BadRequestError, match=r"input 2 of 2: 9 tokens; the limit is 4\. Shorten it\."):
        await client.embeddings.create(model="product-search", input=["good", "bad"])
    answer = await raw.post("/tasks/pos-intent:classify", json={"texts": ["give me my money", "bad"]})
    good, bad = answer.json()["results"]
    assert ("refund", 0.75, 0.8, True, "p-1") == tuple(
        good[key] for key in ("label", "confidence", "threshold", "below_threshold", "prediction_id")
    )
    assert [{"label": "refund", "score": 0.75}, {"label": "price", "score": 0.25}] == good["scores"]
    assert ("LOCAL", ["CPU_SHARED"], "1.2.0") == (good["route"], good["degraded"], good["bundle"]["version"])
    assert ("INPUT_TOO_LONG", "texts") == (bad["error"]["code"], bad["error"]["param"])


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "code"),
    [
        ("POST", "/responses", {"json": {}}, 404, "PATH_UNKNOWN"),
        ("GET", "/chat/completions", {}, 404, "PATH_UNKNOWN"),
        ("DELETE", "/models/pos-intent", {}, 404, "PATH_UNKNOWN"),
        ("GET", "/models/unknown", {}, 404, "TASK_UNKNOWN"),
        ("POST", "/chat/completions", {"content": b"{}", "headers": {"content-type": "text/plain"}}, 400, None),
        ("POST", "/chat/completions", {"data": {"model": "x"}}, 400, None),
        ("POST", "/chat/completions", {"json": ASKED, "headers": {"x-request-timeout": "soon"}}, 400, None),
        ("POST", "/chat/completions", {"json": ASKED, "headers": {"x-request-timeout": "-1"}}, 400, None),
        ("POST", "/embeddings", {"json": {"model": "x", "input": [1, 2]}}, 400, None),
        ("POST", "/embeddings", {"json": {"model": "product-search", "input": "x", "dimensions": 3}}, 400, None),
        ("POST", "/tasks/pos-intent:classify", {"json": {"texts": "x"}}, 400, None),
        ("POST", "/tasks/pos-intent:classify", {"json": {"texts": ["x"], "top": 1}}, 400, None),
    ],
)
async def test_unknown_path_or_method_is_refused_in_the_same_form(
    raw: httpx2.AsyncClient, method: str, path: str, sent: dict[str, Any], status: int, code: str | None
) -> None:
    """In the same shape as everything else."""
    answer = await raw.request(method, path, **sent)
    assert (status, code or "REQUEST_INVALID") == (answer.status_code, answer.json()["error"]["code"])


async def test_gateway_without_a_daemon_returns_503(url: str, daemon: FakeDaemon, raw: httpx2.AsyncClient) -> None:
    """The response is 503 with a delay for a retry."""
    async with serving("127.0.0.1:1") as alone, httpx2.AsyncClient(base_url=alone) as other:
        answer = await other.get("/models")
    assert (503, "UNREACHABLE", "1") == (
        answer.status_code,
        answer.json()["error"]["code"],
        answer.headers["retry-after"],
    )


async def test_request_id_is_passed_on_and_returned(raw: httpx2.AsyncClient, daemon: FakeDaemon) -> None:
    """The request id is sent to the daemon and returned, so that logs can be matched; an idempotency key takes
    precedence."""
    headers = {"X-Request-ID": "r-1", "Idempotency-Key": "k-1"}
    answer = await raw.post("/embeddings", json={"model": "product-search", "input": "x"}, headers=headers)
    again = await raw.post("/embeddings", json={"model": "product-search", "input": "x"}, headers={"x-request-id": "r"})
    assert ["k-1", "r"] == [each.headers["x-request-id"] for each in (answer, again)]
    assert ["k-1", "r"] == [request.request_id for request in daemon.inference.requests]
