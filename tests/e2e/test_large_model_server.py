"""The uplink's client of a large model against a third-party server: llama-cpp-python's, with a real model."""

from __future__ import annotations

import json
import subprocess
import tomllib
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from edge_agent.config import EscalationConfig
from edge_agent.errors import UpstreamFailed, UpstreamRefused
from edge_agent.uplink.escalation.large_model_client import (
    AnswerEnd,
    EscalationQuestion,
    LargeModelClient,
)
from tests.support import environments
from tests.support.eventually import eventually_sync
from tests.support.free_ports import free_port
from tests.support.models import smollm2_path

pytestmark = pytest.mark.slow
KEY = "sk-own"

SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["refund", "hours"]}},
    "required": ["label"],
    "additionalProperties": False,
}
ASKED = (
    ("system", f"Choose a label. Answer with JSON of this schema: {json.dumps(SCHEMA)}"),
    ("user", "My money back!"),
)
START_SECONDS_MAX = 300.0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Return the address of the server once it answers."""
    port = free_port()
    options = [
        "--model",
        str(smollm2_path()),
        "--n_ctx",
        "512",
        "--n_threads",
        "1",
        "--model_alias",
        "m",
        "--api_key",
        KEY,
    ]
    command = [environments.interpreter("llama-server"), "-m", "llama_cpp.server", "--port", str(port), *options]
    address = f"http://127.0.0.1:{port}/v1"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            eventually_sync(lambda: server.poll() is not None or _answers(address), START_SECONDS_MAX)
            assert server.poll() is None, "the server has ended"
            yield address
        finally:
            server.terminate()


def _answers(address: str) -> bool:
    request = urllib.request.Request(f"{address}/models", headers={"Authorization": f"Bearer {KEY}"})
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except urllib.error.URLError:
        return False


@asynccontextmanager
async def client_of(url: str, key: str = KEY) -> AsyncIterator[LargeModelClient]:
    """Open a client."""
    client = LargeModelClient(EscalationConfig(url=url, model="m", tasks=("pos-intent",), seconds_max=300), key)
    try:
        yield client
    finally:
        await client.close()


async def ask(client: LargeModelClient, question: EscalationQuestion) -> tuple[str, AnswerEnd]:
    """Return the text of an answer, and its end."""
    async with client.answering(question) as events:
        *texts, end = [event async for event in events]
    assert isinstance(end, AnswerEnd)
    return "".join(map(str, texts)), end


async def test_client_falls_back_to_json_without_schema_support(url: str) -> None:
    """When the server fails with HTTP 500 on a schema, the client requests a JSON object instead, also for the next
    question."""
    async with client_of(url) as client:
        for _ in range(2):
            said, end = await ask(client, EscalationQuestion(ASKED, SCHEMA, 200, task="pos-intent"))
            assert "m" == end.model
            assert said.lstrip().startswith("{")
            assert not end.complete or isinstance(json.loads(said), dict)


async def test_text_cut_at_limit_is_incomplete(url: str) -> None:
    """An answer that ends at its limit of 5 tokens is not complete, and its input tokens are counted."""
    async with client_of(url) as client:
        said, end = await ask(client, EscalationQuestion((("user", "Tell me a long story."),), None, 5))
    assert (True, False) == (bool(said), end.complete)
    assert end.input_tokens > 0


async def test_answer_without_end_is_a_failure(url: str) -> None:
    """An answer without an end, which this server sends with HTTP 200 to a prompt over its 512 tokens, is a failure;
    the next question is answered."""
    async with client_of(url) as client:
        with pytest.raises(UpstreamFailed, match="it stops in the middle"):
            await ask(client, EscalationQuestion((("user", "and so on " * 600),), None, 5))
    async with client_of(url) as client:  # the server closes the connection of before
        assert (await ask(client, EscalationQuestion((("user", "Hello!"),), None, 5)))[0]


async def test_wrong_key_is_reported(url: str) -> None:
    """With a wrong key both the reachability check and a question fail with a message about the key."""
    async with client_of(url, "sk-wrong") as client:
        with pytest.raises(UpstreamRefused, match="refuses the key"):
            await client.check_reachable()
        with pytest.raises(UpstreamRefused, match="refuses the key"):
            await ask(client, EscalationQuestion((("user", "Hello!"),), None, 5))


def test_server_requires_installed_llama_build() -> None:
    """The server's requirements name the llama-cpp-python version of this project; another one would be compiled for
    minutes."""
    wanted = (environments.CLIENTS / "llama-server.txt").read_text(encoding="utf-8").splitlines()[0]
    project = tomllib.loads((environments.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert wanted in project["dependencies"]
