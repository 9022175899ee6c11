"""The two sides of a comparison, as the parts of the benchmark call them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Protocol

from benchmarks.llama.http import ConnectionPool
from benchmarks.llama.streams import Generation
from benchmarks.llama.tasks import RECORD_TOKENS_MAX, Task
from edge_agent.client import AdminClient, Classification, Extraction, Failure
from edge_agent.client.inference_client import AsyncClient

SECONDS_MAX = 120.0
LOOK_SECONDS = 0.02
CUT_OFF = f"not complete after {RECORD_TOKENS_MAX} tokens"
"""What our engine says of a record that the model does not end."""


class StreamWatch:
    """A stream that is looked at while it is written."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.times: list[float] = []
        self.ended = 0.0
        self._more = asyncio.Event()

    def piece(self) -> None:
        """Note that a piece has come now."""
        self.times.append(time.perf_counter())
        self._more.set()

    def end(self) -> None:
        """Note that no more will come."""
        self.ended = time.perf_counter()
        self._more.set()

    async def until(self, enough: Callable[[list[float]], bool]) -> None:
        """Wait until so much has come, or the stream has ended."""
        while not (self.ended or enough(self.times)):
            self._more.clear()
            await self._more.wait()


class ServerSide(Protocol):
    """One server with the model loaded."""

    async def write(self, task: Task, text: str, tokens: int, watch: StreamWatch | None = None) -> Generation:
        """Write that many tokens, always the likeliest; `watch` sees each piece as it comes."""

    async def classify(self, task: Task, text: str) -> str:
        """Return the label."""

    async def extract(self, task: Task, text: str) -> str:
        """Return the record as JSON; what there is of it, or nothing, where RECORD_TOKENS_MAX were not enough."""

    async def rest(self) -> None:
        """Wait until nothing computes."""


class AgentSide:
    """The daemon, over its Unix socket, by the client."""

    def __init__(self, client: AsyncClient, admin: AdminClient) -> None:
        """Take open clients."""
        self._client, self._admin = client, admin

    async def write(self, task: Task, text: str, tokens: int, watch: StreamWatch | None = None) -> Generation:
        """Stream."""
        watch = watch or StreamWatch()
        asked = time.perf_counter()
        options: dict[str, Any] = {"output_tokens_max": tokens, "temperature": 0, "timeout_seconds": SECONDS_MAX}
        async with self._client.generate(task.name, text, **options) as stream:
            async for _ in stream:
                watch.piece()
        watch.end()
        assert stream.finish is not None
        return Generation(asked, tuple(watch.times), watch.ended, stream.finish.output_tokens)

    async def classify(self, task: Task, text: str) -> str:
        """Ask about one text."""
        (answer,) = await self._client.classify(task.name, [text], timeout_seconds=SECONDS_MAX)
        assert isinstance(answer, Classification), answer
        return answer.label

    async def extract(self, task: Task, text: str) -> str:
        """Ask about one text."""
        (answer,) = await self._client.extract(task.name, [text], timeout_seconds=SECONDS_MAX)
        if isinstance(answer, Failure) and CUT_OFF in answer.message:
            return ""
        assert isinstance(answer, Extraction), answer
        return answer.json

    async def rest(self) -> None:
        """Look at the engines."""
        while any(engine.pending or engine.running for engine in self._admin.status().engines):  # noqa: ASYNC110 - another process
            await asyncio.sleep(LOOK_SECONDS)


class LlamaServerSide:
    """llama-server, over HTTP on loopback. It takes the prompt as a text, as the daemon does."""

    def __init__(self, pool: ConnectionPool, label_tokens: int) -> None:
        """Take connections, and how many tokens the longest label has."""
        self._pool, self._label_tokens = pool, label_tokens

    async def write(self, task: Task, text: str, tokens: int, watch: StreamWatch | None = None) -> Generation:
        """Stream; what would end the text does not end it."""
        wanted = {"prompt": task.prompt(text), "n_predict": tokens, "temperature": 0, "ignore_eos": True}
        watch, written = watch or StreamWatch(), 0
        asked = time.perf_counter()
        async with aclosing(self._pool.stream("/completion", {**wanted, "stream": True})) as events:
            async for event in events:
                if event["content"]:
                    watch.piece()
                written = event.get("tokens_predicted", written)
        watch.end()
        return Generation(asked, tuple(watch.times), watch.ended, written)

    async def classify(self, task: Task, text: str) -> str:
        """Write one of the labels under a grammar, with the probabilities of as many tokens."""
        wanted = {"prompt": task.prompt(text), "n_predict": self._label_tokens, "temperature": 0}
        answer = await self._pool.post(
            "/completion", {**wanted, "grammar": task.grammar(), "n_probs": len(task.labels)}
        )
        return str(answer["content"]).strip()

    async def extract(self, task: Task, text: str) -> str:
        """Write under the same schema."""
        wanted = {"prompt": task.prompt(text), "n_predict": RECORD_TOKENS_MAX, "temperature": 0}
        answer = await self._pool.post("/completion", {**wanted, "json_schema": task.schema})
        return str(answer["content"])

    async def rest(self) -> None:
        """Look at the slots."""
        while any(slot["is_processing"] for slot in await self._pool.get("/slots")):  # noqa: ASYNC110 - likewise
            await asyncio.sleep(LOOK_SECONDS)
